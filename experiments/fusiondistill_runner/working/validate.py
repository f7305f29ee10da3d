"""The validation stage: how many validation images a network has right, clean and at random levels."""

from __future__ import annotations

from collections import Counter
from functools import partial

import torch
from torch import nn

from fusiondistill import checkpoints, evaluation
from fusiondistill.cards import HOW
from fusiondistill.randomness import key
from fusiondistill_runner.planning.specs import ValidateSpec
from fusiondistill_runner.working.data import splits
from fusiondistill_runner.working.job import Job, Result
from fusiondistill_runner.working.networks import of_card

__all__ = ["CLEAN", "validate"]

CLEAN = "clean"
"""The column of images as they are; no degradation of a config has this id."""


class _OfPixels(nn.Module):
    """A module of images uint8 [B,3,H,W] that takes their values as floats."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The logits, float32 [B,C]."""
        found: torch.Tensor = self.module(pixels.round().to(torch.uint8))
        return found


def validate(job: Job) -> Result:
    """Count right answers. Every network of a table and seed sees the same images at the same levels."""
    spec = job.stage.spec
    assert isinstance(spec, ValidateSpec)
    state, card = job.inputs.weights("model")
    _, held_out = splits(spec.data, job.context.root(spec.data), "validation")
    assert held_out is not None  # the plan has such stages only where it is there
    if HOW in card:  # networks with what makes them answer take pixels
        network: nn.Module = _OfPixels(checkpoints.model_of(state, card, job.stage.inputs["model"].name).to(job.device))
        images = held_out.normalised_by((0.0,) * 3, (1.0,) * 3)
    else:  # a network of elsewhere is shown images as it knows them
        network = of_card(card, state, job.device)
        images = held_out.normalised_by(tuple(card["mean"]), tuple(card["std"]))
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()

    def count(found: dict[str, torch.Tensor]) -> None:
        right.update({name: int(one.sum()) for name, one in found.items()})
        seen.update({name: len(one) for name, one in found.items()})

    judge = partial(evaluation.validate, network, images, device=job.device, protocol=spec.protocol)
    count(judge((), seed=0))
    for draw in range(spec.draws):
        count(judge(spec.degradations, seed=key(job.stage.seed, "choice", draw)))
    outcome = {"right": dict(right), "seen": dict(seen), "images": len(images)}
    return Result({}, {"outcome": outcome})
