"""The stages of a way of inference: its part is fitted, and put into one file with the networks that answer."""

from __future__ import annotations

from typing import Any

from fusiondistill import checkpoints
from fusiondistill.cards import HOW
from fusiondistill.inference import INFERENCE, At, Part
from fusiondistill.packing import How, pack
from fusiondistill_runner.planning.specs import FitSpec, PackSpec
from fusiondistill_runner.working.data import splits
from fusiondistill_runner.working.job import Job, Result

__all__ = ["PART", "fit_part", "pack_networks"]

JUDGED = 2000
"""Images (at most) on which networks are compared."""
PART = "part"
"""The input of a file of networks that is not one of them."""


def fit_part(job: Job) -> Result:
    """Fit the part on the training images, and judge it on the validation split where there is one."""
    spec = job.stage.spec
    assert isinstance(spec, FitSpec)
    entry = INFERENCE[spec.inference]
    images, held_out = splits(spec.data, job.context.root(spec.data), "validation")
    at = At(images, held_out, spec.degradations, spec.data_seed, spec.protocol, job.device)
    assert entry.fits is not None
    made = entry.fits(at, **entry.checked(spec.parameters))
    if not isinstance(made, Part):
        raise entry.gave(f"must fit a Part, not {type(made).__name__}")
    card = {"about": dict(made.about)}
    return Result({checkpoints.MODEL: checkpoints.to_safetensors(made.state, card)}, {"outcome": dict(made.outcome)})


def pack_networks(job: Job) -> Result:
    """Put the networks of a row into one file, with what was fitted for how they answer."""
    spec = job.stage.spec
    assert isinstance(spec, PackSpec)
    roles = [role for role in job.inputs.stages if role != PART]
    states = [job.inputs.weights(role)[0] for role in roles]
    part, about = job.inputs.weights(PART) if PART in job.inputs.stages else ({}, {})
    entry, known = INFERENCE[spec.inference], dict(about.get("about", {}))
    card: dict[str, Any] = dict(job.inputs.card(roles[0]))
    if settles := entry.facts["settles"]:
        images, held_out = splits(spec.data, job.context.root(spec.data), "validation")
        judged = held_out if held_out is not None else images
        networks = {
            role: checkpoints.from_card(one, card).to(job.device) for role, one in zip(roles, states, strict=True)
        }
        known |= settles(networks, judged.at_most(JUDGED), known)
    how = How(spec.inference, spec.parameters, tuple(roles), known, entry.code)
    card[HOW] = how.content()
    state = pack(states, part)
    files = {checkpoints.MODEL: checkpoints.to_safetensors(state, card)}
    numbers = sum(tensor.numel() for tensor in state.values())
    outcome = {"networks": len(roles), "numbers": numbers, "shared": sum(name.startswith("all.") for name in state)}
    return Result(files, {"card": card, "outcome": outcome})
