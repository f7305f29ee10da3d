"""The merging stage: it merges networks, sets BatchNorm's statistics, and measures how far the weights moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import torch

from fusiondistill import checkpoints, evaluation
from fusiondistill.batches import as_in_training
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import DegradationConfig
from fusiondistill.merging import At, merge
from fusiondistill.recalibration import recalibrate_batchnorm
from fusiondistill.state_dicts import StateDict, distance, with_statistics
from fusiondistill_runner.planning.specs import MergeSpec
from fusiondistill_runner.working.data import splits
from fusiondistill_runner.working.job import Job, Result
from fusiondistill_runner.working.networks import of_card
from fusiondistill_runner.working.surface import Batches, mean_loss, surface

__all__ = ["merge_networks"]

MEMBER = "expert-"
"""Opens the names of the inputs that are merged; the id of a degradation follows, nothing for one of all of them."""
JUDGED = 2000
"""Training images (at most) that the loss is taken on where none are held out."""
CANDIDATE = 512
"""Training images (at most) on which the statistics of each candidate that a method tries are recomputed."""

States = dict[str, dict[str, torch.Tensor]]


def merge_networks(job: Job) -> Result:
    """Merge the networks of a stage's inputs, and compare the result with them."""
    spec = job.stage.spec
    assert isinstance(spec, MergeSpec)
    roles = [role for role in job.inputs.stages if role.startswith(MEMBER)]
    members = {role.removeprefix(MEMBER): job.inputs.weights(role)[0] for role in roles}
    # What all of them started from, if there is one such network.
    base = job.inputs.weights("base")[0] if "base" in job.inputs.stages else None
    card = job.inputs.card(roles[0])
    images, held_out = splits(spec.data, job.context.root(spec.data), "validation")
    mixed = _mixed(job, spec)
    names = tuple(one for one in spec.degradations if spec.told in (None, one.id))
    sample = images.at_most(spec.images)
    merged, chosen = _merged(job, spec, members, base, card, sample, held_out)
    network = of_card(card, merged, job.device)
    if spec.recalibrate == "mixed":
        recalibrate_batchnorm(network, _seen(job, spec, sample, names))
    judged = held_out if held_out is not None else images.at_most(JUDGED)
    losses = {d: mean_loss(of_card(card, state, job.device), mixed(judged, names)) for d, state in members.items()}
    outcome = {
        "barrier": mean_loss(network.eval(), mixed(judged, names)) - sum(losses.values()) / len(losses),
        "expert_loss": losses,
        "judged_on": "validation" if held_out is not None else "training images",
        "method": spec.merge,
        "recalibrate": spec.recalibrate,
        "told": spec.told,
        "surface": surface(
            members,
            network,
            card,
            job.device,
            training=images,
            judged=judged,
            mixed=partial(mixed, degradations=names),
            seen=partial(_seen, job, spec, degradations=names),
        ),
    }
    if chosen:
        outcome["chosen"] = chosen
    if base is not None:
        outcome["distance"] = {d: distance(state, base) for d, state in members.items()}
    files = {checkpoints.MODEL: checkpoints.to_safetensors(network.state_dict(), card)}
    return Result(files, {"card": card, "outcome": outcome})


def _mixed(job: Job, spec: MergeSpec) -> Callable[..., Batches]:
    """Makes labelled batches of whole images under degradations."""
    return partial(evaluation.mixed_batches, seed=spec.data_seed, device=job.device, protocol=spec.protocol)


def _seen(
    job: Job, spec: MergeSpec, images: ImageSet, degradations: Sequence[DegradationConfig]
) -> Iterable[torch.Tensor]:
    """Images for BatchNorm's statistics: as the merged networks saw them in training, or whole ones if that is not
    known."""
    if spec.augmentation is None:
        return (pixels for pixels, _ in _mixed(job, spec)(images, degradations))
    return as_in_training(
        images,
        degradations,
        spec.augmentation,
        seed=spec.data_seed,
        protocol=spec.protocol,
        device=job.device,
        batch_size=evaluation.MIXED_BATCH,
    )


def _merged(
    job: Job,
    spec: MergeSpec,
    members: States,
    base: dict[str, torch.Tensor] | None,
    card: dict[str, Any],
    sample: ImageSet,
    held_out: ImageSet | None,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The merged weights, with BatchNorm's statistics averaged, or those of the first network; and what was chosen.

    Candidates are judged with statistics of all degradations also in a stage that is told one: merged weights are the
    same for all of them.
    """

    mixed = _mixed(job, spec)

    def batches(of: ImageSet, name: str) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        return mixed(of, [one for one in spec.degradations if name in ("", one.id)])

    @cache
    def few() -> list[torch.Tensor]:
        return list(_seen(job, spec, sample.at_most(CANDIDATE), spec.degradations))

    def finish(state: StateDict) -> torch.nn.Module:
        first = spec.recalibrate == "none"
        network = of_card(card, with_statistics(state, states, "first") if first else state, job.device)
        return recalibrate_batchnorm(network, few()) if spec.recalibrate == "mixed" else network

    states = list(members.values())
    at = At(
        base=base,
        names=tuple(members),
        network=lambda state: of_card(card, state, job.device),
        batches=partial(batches, sample),
        validation=None if held_out is None else partial(batches, held_out),
        seed=spec.data_seed,
        device=job.device,
        finish=finish,
    )
    merged = merge(states, spec.merge, at=at, **spec.parameters)
    return with_statistics(merged, states, "first") if spec.recalibrate == "none" else merged, at.chosen
