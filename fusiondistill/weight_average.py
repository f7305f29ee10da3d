"""The exponential moving average of a network's weights over the steps of its training."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from fusiondistill.batches import Pipeline
from fusiondistill.recalibration import recalibrate_batchnorm

__all__ = ["WeightAverage"]

STEPS = 8
"""Batches of an epoch, at most, on which BatchNorm's statistics are recomputed."""


class WeightAverage:
    """A second network whose weights follow those of a network in training.

    After step n, from 0, its weights become d * average + (1 - d) * weights with d = min(decay, (1 + n) / (10 + n)): a
    short training forgets its start, too. BatchNorm's statistics belong to the averaged weights only once
    :meth:`recalibrate` has recomputed them.

    Args:
        model: in training, without hooks of a loop's own.
        decay: d of a long training, 0 to 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.network = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights after a step of the whole training, counted from 0. Nothing is read from the device."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average: list[torch.Tensor] = list(self.network.parameters())
        weights: list[torch.Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(average, weights, 1 - decay)

    def recalibrate(self, pipeline: Pipeline, epoch: int) -> None:
        """Recompute BatchNorm's statistics on the first batches of an epoch; other buffers are those of the network."""
        with torch.no_grad():
            for own, its in zip(self.network.buffers(), self.model.buffers(), strict=True):
                own.copy_(its)
        recalibrate_batchnorm(self.network, _inputs(replace(pipeline, teacher_view=None), epoch))


def _inputs(pipeline: Pipeline, epoch: int) -> Iterator[torch.Tensor]:
    """What a student sees in the first steps of an epoch, float32 [B,3,H,W]."""
    with contextlib.closing(pipeline.epoch(epoch)) as batches:  # type: ignore[type-var]  # a generator
        for batch in islice(batches, STEPS):
            if len(batch.labels) > 1:
                yield batch.student
