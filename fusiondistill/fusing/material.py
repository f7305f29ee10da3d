"""Images for a fusion: those that statistics and methods learn from, and those that networks are judged on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fusiondistill import checkpoints, evaluation
from fusiondistill.batches import as_in_training, normalise
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import DegradationConfig
from fusiondistill.fusing.ingredients import CLEAN, Ingredient
from fusiondistill.merging import At
from fusiondistill.recalibration import recalibrate_batchnorm
from fusiondistill.recipe import Augmentation
from fusiondistill.state_dicts import StateDict

__all__ = ["Material"]

Labelled = tuple[torch.Tensor, torch.Tensor]
CANDIDATE, POINT = 512, 128
"""Images (at most) on which statistics are recomputed: of a candidate, and of a point between two networks.

A point's loss is that on as many held-out images: the curve is about differences, and there are many points."""


@dataclass(frozen=True)
class Material:
    """A data set for a fusion.

    Attributes:
        card: of the networks, which says how they are built and how images are normalised.
        training: images for statistics and for methods that look at images.
        validation: images that networks are judged on, and by which methods choose; None where no labels are known:
            those of ``training`` mean nothing then.
        degradations: the degradations of the tasks.
        tasks: what the merged network is for: ids of these, and perhaps :data:`CLEAN`; at least one.
        recalibrate: ``mixed``, ``average``, or ``best``: ``mixed`` until it is known which is better.
        seed: of levels and noise.
        device: where networks run.
        augmentation: how the networks' training cut and covered images, which BatchNorm's statistics are recomputed on;
            None: whole images.
    """

    card: Mapping[str, Any]
    training: ImageSet
    validation: ImageSet | None
    degradations: Sequence[DegradationConfig]
    tasks: tuple[str, ...]
    recalibrate: str
    seed: int
    device: torch.device
    augmentation: Augmentation | None = None

    def network(self, state: StateDict) -> nn.Module:
        """The network with these weights, in eval mode."""
        return checkpoints.from_card(state, self.card).network.to(self.device).eval()

    def finished(self, state: StateDict, sample: Sequence[torch.Tensor] | None = None) -> nn.Module:
        """The network that merged weights become: with BatchNorm recomputed on all tasks, or as it is."""
        network = self.network(state)
        if self.recalibrate == "average":
            return network
        return recalibrate_batchnorm(network, self._candidate if sample is None else sample).eval()

    def recomputed(self, state: StateDict) -> nn.Module:
        """:meth:`finished` on all training images."""
        return self.finished(state, self.mixed(self.training))  # type: ignore[arg-type]  # read once

    def batches(self, images: ImageSet, task: str) -> Iterable[Labelled]:
        """Labelled normalised images of a task, float32 [B,3,H,W] and int64 [B], on the device."""
        if task == CLEAN:
            return self._clean(images)
        named = [one for one in self.degradations if one.id == task]
        given: dict[str, Any] = {"seed": self.seed, "device": self.device, "protocol": "standard"}
        return evaluation.mixed_batches(images, named, **given)

    def _clean(self, images: ImageSet) -> Iterator[Labelled]:
        for start in range(0, len(images), evaluation.MIXED_BATCH):
            rows = torch.arange(start, min(start + evaluation.MIXED_BATCH, len(images)))
            pixels, labels = (tensor.to(self.device) for tensor in images.gather(rows))
            yield normalise(pixels, images.mean, images.std), labels

    def mixed(self, images: ImageSet) -> Iterator[torch.Tensor]:
        """Batches that hold every task in equal parts, as in training where that is known."""
        for parts in zip(*(self._seen(images, task) for task in self.tasks), strict=True):
            yield torch.cat(parts)

    def _seen(self, images: ImageSet, task: str) -> Iterator[torch.Tensor]:
        if self.augmentation is None:
            return (pixels for pixels, _ in self.batches(images, task))
        return as_in_training(
            images,
            [one for one in self.degradations if one.id == task],
            self.augmentation,
            seed=self.seed,
            protocol="standard",
            device=self.device,
            batch_size=evaluation.MIXED_BATCH,
        )

    @property
    def _held_out(self) -> ImageSet:
        assert self.validation is not None
        return self.validation

    @cached_property
    def _candidate(self) -> list[torch.Tensor]:
        return list(self.mixed(self.training.at_most(CANDIDATE)))

    @cached_property
    def few(self) -> list[torch.Tensor]:
        """A sample for points between networks."""
        return list(self.mixed(self.training.at_most(POINT)))

    @cached_property
    def few_judged(self) -> dict[str, list[Labelled]]:
        """Task -> some held-out images, for points between networks."""
        few = self._held_out.at_most(POINT)
        return {task: list(self.batches(few, task)) for task in self.tasks}

    @cached_property
    def judged(self) -> dict[str, list[Labelled]]:
        """Task -> the held-out images under it."""
        return {task: list(self.batches(self._held_out, task)) for task in self.tasks}

    def at(self, given: Sequence[Ingredient], base: StateDict | None) -> At:
        """What a merging method may ask for. An ingredient without a task has images of all tasks in turn."""
        tasks = {one.name: (one.task,) if one.task else self.tasks for one in given}

        def training(name: str) -> Iterator[Labelled]:
            for task in tasks.get(name, (name,)):
                yield from self.batches(self.training, task)

        def validation(name: str) -> Iterator[Labelled]:
            for task in (name,) if name in self.tasks else tasks[name]:
                yield from self.judged[task]

        return At(
            base=base,
            names=[one.name for one in given],
            judged=self.tasks,
            network=self.network,
            batches=training,
            validation=validation,
            seed=self.seed,
            device=self.device,
            finish=self.finished,
        )
