"""The input pipeline: whole batches as tensor operations on the training device.

gather -> flip (-> resized crop) -> degrade -> zero-pad and crop -> normalise -> cutout. Every random choice is
addressed by (seed, epoch, image index, degradation, purpose): world size, batch size and resuming change no pixel.

A resized crop takes the padded crop's place. It comes before the degradation, so that a level means in training what it
means in evaluation: a blur's sigma and a noise's grain are not enlarged with the crop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from fusiondistill.augmentation import cutout, padded_crop, resized_crop
from fusiondistill.balancing import balanced_positions
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import DegradationConfig, as_degradation
from fusiondistill.degradations import degrade, find
from fusiondistill.feeding import Images, fed
from fusiondistill.randomness import bits, integers, key, permutation, uniform

__all__ = ["Batch", "Pipeline", "degraded", "level_address", "normalise", "random_levels"]


@dataclass(frozen=True)
class Batch:
    """One training step on this worker.

    Attributes:
        student: float32 [B,3,H,W], normalised, with cutout: the degradations' images one after another.
        teacher: float32 [B,3,H,W], normalised, without cutout: what the teachers see, in the same order; None if no
            teacher asked for it.
        labels: int64 [B].
        slices: where each degradation's images are within B.
        share: this worker's images as a multiple of the mean over all workers; a loss that is a mean over B must be
            multiplied by it before gradients are averaged over workers.
        weight: this worker's images in sums over all workers: B, or less where every worker has the same images.
        image_weights: float32 [B], the weight of each image's class over the mean of these over the images of the step,
            of all workers; None where all classes weigh the same.
    """

    student: torch.Tensor
    teacher: torch.Tensor | None
    labels: torch.Tensor
    slices: list[slice]
    share: float
    weight: float
    image_weights: torch.Tensor | None = None


@dataclass(frozen=True)
class Pipeline:
    """Training batches of one stage.

    Attributes:
        images: the training images.
        degradations: names, or with levels and an id of their own, which then addresses their draws; empty for clean
            training.
        seed: of order, augmentation, levels and noise.
        batch_size: images per degradation and step, over all workers.
        flip: random horizontal flips.
        padding: zeros (black) around the image before the random crop back to its size.
        cutout: side of the hole, 0 for none.
        pairing: ``same`` puts the same images with the same flip and crop under every degradation of a step.
        coupled: whether an image's level is the same under degradations with equally many levels, and its hole under
            those without random numbers of their own: see :func:`level_address`.
        teacher_view: ``clean``, ``degraded`` or None for no teacher view at all.
        protocol: of the degradations.
        device: where batches are made.
        rank, world_size: this worker's place among those that share every batch.
        channels_last: memory layout of the batches.
        scale, ratio: of the resized crop, see :func:`fusiondistill.augmentation.resized_crop`; it stands for the padded
            crop. ``scale`` None: no resized crop.
        class_weights: float [classes], what images weigh in the cross-entropy by their class; None: all the same.
        balanced: an epoch has as many images of each class, some of them repeatedly or not at all.
        limit: bytes that the images may take in memory, see :func:`fusiondistill.feeding.fed`; changes no pixel.
    """

    images: ImageSet
    degradations: tuple[str | DegradationConfig, ...]
    seed: int
    batch_size: int
    flip: bool
    padding: int
    cutout: int
    pairing: str
    teacher_view: str | None
    protocol: str
    device: torch.device
    rank: int = 0
    world_size: int = 1
    channels_last: bool = False
    coupled: bool = False
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    class_weights: torch.Tensor | None = None
    balanced: bool = False
    limit: int | None = None

    @property
    def steps(self) -> int:
        """Steps of an epoch; the short last batch is kept."""
        return -(-len(self.images) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (from 0)."""
        given = [None if one is None else as_degradation(one) for one in self.degradations or (None,)]
        orders = [self._order(epoch, self._pair(one.id if one else None)) for one in given]
        steps = [[order[start : start + self.batch_size] for order in orders]
                 for start in range(0, len(orders[0]), self.batch_size)]  # fmt: skip
        # The images of every step, one degradation after another, as a stream that may be read ahead of need.
        wanted = (self._rows(self._shard(one)[0]) for step in steps for one in step)
        images = fed(self.images, self.device, wanted, self.limit)
        weights = None if self.class_weights is None else self.class_weights[self.images.labels].to(self.device)
        for step in steps:
            shards = [self._shard(one) for one in step]
            mine, share = [one for one, _ in shards], shards[0][1]
            parts = [self._views(next(images), one, d, epoch) for one, d in zip(mine, given, strict=True)]
            batch = self._join(parts, share, share * sum(map(len, step)) / self.world_size)
            yield batch if weights is None else replace(batch, image_weights=self._relative(weights, mine, step))

    def _order(self, epoch: int, pair: str) -> torch.Tensor:
        """The images of an epoch, int64 [N], on the device: the index of each, plus N for each repeat before it.

        Every random choice for an image has this number as its address, so that repeats look different.
        """
        order = key(self.seed, "order", epoch, pair)
        if not self.balanced:
            return permutation(order, len(self.images), self.device)
        positions = balanced_positions(self.images.labels, key(self.seed, "balance", epoch, pair))
        return positions[bits(order, positions).argsort(stable=True)].to(self.device)

    def _relative(self, weights: torch.Tensor, mine: list[torch.Tensor], step: list[torch.Tensor]) -> torch.Tensor:
        """The weights of this worker's images over the mean weight of the step's."""
        own, whole = (weights[self._rows(torch.cat(one))] for one in (mine, step))
        return own / whole.mean()

    def _rows(self, order: torch.Tensor) -> torch.Tensor:
        """The indices of images within the set."""
        return order % len(self.images) if self.balanced else order

    def _pair(self, name: str | None) -> str:
        """The degradation as part of an address; "" where all degradations draw alike."""
        return "" if name is None or self.pairing == "same" else name

    def _shard(self, indices: torch.Tensor) -> tuple[torch.Tensor, float]:
        """This worker's part of a batch, and its ``share``. Every worker trains on a last batch too small to cut."""
        total = len(indices)
        if self.world_size == 1 or total < 2 * self.world_size:
            return indices, 1.0
        mine = indices[self.rank :: self.world_size]
        return mine, len(mine) * self.world_size / total

    def _views(
        self, images: Images, indices: torch.Tensor, given: DegradationConfig | None, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """(student, teacher, labels) of some images under one degradation; ``indices`` are their addresses."""
        clean, labels = images
        name = given.id if given else None
        pair = self._pair(name)
        if self.flip:
            flipped = uniform(key(self.seed, "flip", epoch, pair), indices) < 0.5
            clean = torch.where(flipped[:, None, None, None], clean.flip(3), clean)
        crops, padding = key(self.seed, "crop", epoch, pair), self.padding
        if self.scale:
            clean, padding = resized_crop(clean, crops, indices, self.scale, self.ratio), 0
        seen = clean
        if given is not None:
            address = level_address(given, self.coupled)
            levels = random_levels(given, key(self.seed, "level", epoch, address), indices)
            pixels = key(self.seed, "pixels", epoch)
            seen = degraded(clean, given, levels, seed=pixels, indices=indices, protocol=self.protocol)
        student = self._normal(padded_crop(seen, crops, indices, padding))
        teacher = None
        if self.teacher_view == "degraded":
            teacher = student
        elif self.teacher_view == "clean":
            teacher = self._normal(padded_crop(clean, crops, indices, padding))
        if self.cutout:
            own = "" if given is None or (self.coupled and not find(given.name).random) else given.id
            student = cutout(student, key(self.seed, "cutout", epoch, own), indices, self.cutout)
        return student, teacher, labels

    def _normal(self, images: torch.Tensor) -> torch.Tensor:
        return normalise(images, self.images.mean, self.images.std)

    def _join(
        self, parts: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]], share: float, weight: float
    ) -> Batch:
        slices, start = [], 0
        for student, _, _ in parts:
            slices.append(slice(start, start + len(student)))
            start += len(student)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        teachers = [teacher for _, teacher, _ in parts if teacher is not None]
        return Batch(
            student=torch.cat([student for student, _, _ in parts]).contiguous(memory_format=layout),
            teacher=torch.cat(teachers).contiguous(memory_format=layout) if teachers else None,
            labels=torch.cat([labels for _, _, labels in parts]),
            slices=slices,
            share=share,
            weight=weight,
        )


def level_address(given: str | DegradationConfig, coupled: bool) -> str:
    """What of a degradation addresses the draw of an image's level: its id, or how many levels it has.

    The released code seeds a generator of levels for each degradation, all alike, and draws from 0 to the number of
    levels; so degradations with equally many (blur and noise, 51) draw the same one, counted from their lowest. It
    takes holes from another generator, seeded alike too, which degradations share with their noise; so those that need
    no random numbers (jpeg and blur) have the same holes. Both hold here for a plugin's degradations as well.
    """
    one = as_degradation(given)
    return f"{len(one.every_level)} levels" if coupled else one.id


def random_levels(given: str | DegradationConfig, address: int, indices: torch.Tensor) -> torch.Tensor:
    """A level for every image, int64 [B], uniform over the degradation's levels, or over those that are given."""
    levels = as_degradation(given).every_level
    drawn = integers(address, indices, 0, len(levels) - 1)
    if len(levels) == levels[-1] - levels[0] + 1:
        return drawn + levels[0]
    return _listed(tuple(levels), indices.device)[drawn]


@lru_cache(maxsize=64)
def _listed(levels: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Levels on the device, cached: a copy in every step would make the host wait for the device."""
    return torch.tensor(levels).to(device, non_blocking=True)


def degraded(
    images: torch.Tensor,
    given: str | DegradationConfig,
    levels: torch.Tensor,
    *,
    seed: int,
    indices: torch.Tensor,
    protocol: str,
) -> torch.Tensor:
    """Training images under a degradation as it is given; an id of its own draws noise of its own.

    Args:
        images: uint8 [B,3,H,W].
        levels: int64 [B].
        seed, indices, protocol: see :func:`fusiondistill.degradations.degrade`.

    Returns:
        uint8 [B,3,H,W].
    """
    one = as_degradation(given)
    own = seed if one.id == one.name else key(seed, "as", one.id)
    return degrade(images, one.name, levels, seed=own, indices=indices, protocol=protocol, **one.parameters)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 [B,3,H,W] -> float32 (x - mean) / std; mean and std per channel on the 0..255 scale."""
    centre, scale = _constants(tuple(mean), tuple(std), images.device)
    return (images.to(torch.float32) - centre) / scale


@lru_cache(maxsize=16)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std on the device, cached: a copy in every step would make the host wait for the device."""
    mean_std = torch.tensor([mean, std], dtype=torch.float32, device=device)
    return mean_std[0].view(1, -1, 1, 1), mean_std[1].view(1, -1, 1, 1)
