"""Averages of a network's weights, and a pull towards its start."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from fusiondistill.batches import Pipeline
from fusiondistill.muon import Muon
from fusiondistill.recalibration import recalibrate_batchnorm
from fusiondistill.recipe import Recipe

__all__ = ["EpochAverage", "Pull", "WeightAverage", "average_of", "first_inputs"]

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

    def counts(self, epoch: int) -> bool:
        """Whether the average, and not the network itself, is what an epoch (from 0) came to."""
        return True

    def end(self, pipeline: Pipeline, epoch: int) -> None:
        """Be ready to be judged after an epoch."""
        self.recalibrate(pipeline, epoch)

    def recalibrate(self, pipeline: Pipeline, epoch: int) -> None:
        """Recompute BatchNorm's statistics on the first batches of an epoch; other buffers are those of the network."""
        with torch.no_grad():
            for own, its in zip(self.network.buffers(), self.model.buffers(), strict=True):
                own.copy_(its)
        recalibrate_batchnorm(self.network, first_inputs(replace(pipeline, teacher_view=None), epoch, STEPS))


class EpochAverage(WeightAverage):
    """A second network whose weights are the mean of those at the ends of epochs: stochastic weight averaging.

    Izmailov et al., Averaging weights leads to wider optima and better generalization, UAI 2018, arXiv:1803.05407.
    Before its first epoch the network itself is what an epoch came to.

    Args:
        model: in training, without hooks of a loop's own.
        first: the epoch, from 0, whose end is the first that counts.
    """

    def __init__(self, model: nn.Module, first: int) -> None:
        super().__init__(model, 0.0)
        self.first = first

    def update(self, step: int) -> None:
        """Nothing happens between the ends of epochs."""

    def counts(self, epoch: int) -> bool:
        """From the first epoch on."""
        return epoch >= self.first

    @torch.no_grad()
    def end(self, pipeline: Pipeline, epoch: int) -> None:
        """Take the weights after an epoch into the mean, and recompute BatchNorm's statistics."""
        if self.counts(epoch):
            average: list[torch.Tensor] = list(self.network.parameters())
            torch._foreach_lerp_(average, list(self.model.parameters()), 1 / (epoch - self.first + 1))
            self.recalibrate(pipeline, epoch)


def average_of(model: nn.Module, recipe: Recipe, first: int = 0) -> WeightAverage | None:
    """The average that a recipe asks for, None where it asks for none.

    Args:
        model: in training, without hooks of a loop's own.
        first: the first epoch of the training, where it does only some of the recipe's.
    """
    if recipe.swa:
        return EpochAverage(model, max(first, min(round(recipe.swa * recipe.epochs), recipe.epochs - 1)))
    return WeightAverage(model, recipe.ema) if recipe.ema else None


class Pull:
    """A pull of `pull / 2 * |weights - start|^2`, which keeps a network near its start.

    As in L2-SP (Li et al., Explicit inductive bias for transfer learning, ICML 2018, arXiv:1802.01483), with the head
    pulled as well, and in FedProx. It acts as the weight decay of the optimiser does: its gradient is added to that of
    the loss (SGD, RAdam), or, where the optimiser rescales gradients, weights go `lr * pull` of their way back (AdamW,
    Muon). It is no part of the loss that is noted.

    Args:
        model: holds the start; its weights without a gradient in a step, which do not move, are left alone.
        pull: at least 0.
    """

    def __init__(self, model: nn.Module, pull: float) -> None:
        self.pull = pull
        self._pairs = [(weight, weight.detach().clone()) for weight in model.parameters()]

    @torch.no_grad()
    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Pull, between the backward pass and the step of the optimiser; reads nothing back from the device."""
        moved = [(weight.grad, weight.detach(), start) for weight, start in self._pairs if weight.grad is not None]
        gradients, weights, starts = (list(part) for part in zip(*moved, strict=True))
        if not isinstance(optimizer, torch.optim.AdamW | Muon):
            torch._foreach_add_(gradients, torch._foreach_sub(weights, starts), alpha=self.pull)
            return
        part = optimizer.param_groups[0]["lr"] * self.pull  # where steps are graphs, a tensor on the device
        for weight, start in zip(weights, starts, strict=True):
            weight.sub_((weight - start) * part)


def first_inputs(pipeline: Pipeline, epoch: int, steps: int) -> Iterator[torch.Tensor]:
    """What a student sees in the first steps of an epoch, float32 [B,3,H,W]; a single image is left out."""
    with contextlib.closing(pipeline.epoch(epoch)) as batches:  # type: ignore[type-var]  # a generator
        for batch in islice(batches, steps):
            if len(batch.labels) > 1:
                yield batch.student
