"""The input pipeline: whole batches as tensor operations on the training device.

gather -> flip -> degrade -> zero-pad and crop -> normalise -> cutout. Every random choice is addressed by (seed, epoch,
image index, degradation, purpose): world size, batch size and resuming cannot change a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional

from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import DegradationConfig, as_degradation
from fusiondistill.degradations import degrade, find
from fusiondistill.randomness import integers, key, permutation, uniform

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
    """

    student: torch.Tensor
    teacher: torch.Tensor | None
    labels: torch.Tensor
    slices: list[slice]
    share: float
    weight: float


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

    @property
    def steps(self) -> int:
        """Steps of an epoch; the short last batch is kept."""
        return -(-len(self.images) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (from 0)."""
        given = [None if one is None else as_degradation(one) for one in self.degradations or (None,)]
        orders = [
            permutation(
                key(self.seed, "order", epoch, self._pair(one.id if one else None)), len(self.images), self.device
            )
            for one in given
        ]
        for start in range(0, len(self.images), self.batch_size):
            parts, share, total = [], 1.0, 0
            for one, order in zip(given, orders, strict=True):
                mine, share = self._shard(order[start : start + self.batch_size])
                parts.append(self._views(mine, one, epoch))
                total += len(order[start : start + self.batch_size])
            yield self._join(parts, share, share * total / self.world_size)

    def _gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B,3,H,W] and int64 [B], a copy; on a CPU straight out of the memory map."""
        if self.device.type == "cpu":
            return self.images.gather(indices)
        images, labels = _resident(self.images, self.device)
        return images.index_select(0, indices), labels.index_select(0, indices)

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
        self, indices: torch.Tensor, given: DegradationConfig | None, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """(student, teacher, labels) of some images under one degradation."""
        clean, labels = self._gather(indices)
        name = given.id if given else None
        pair = self._pair(name)
        if self.flip:
            flipped = uniform(key(self.seed, "flip", epoch, pair), indices) < 0.5
            clean = torch.where(flipped[:, None, None, None], clean.flip(3), clean)
        seen = clean
        if given is not None:
            address = level_address(given, self.coupled)
            levels = random_levels(given, key(self.seed, "level", epoch, address), indices)
            pixels = key(self.seed, "pixels", epoch)
            seen = degraded(clean, given, levels, seed=pixels, indices=indices, protocol=self.protocol)
        crops = key(self.seed, "crop", epoch, pair)
        student = self._normal(_crop(seen, crops, indices, self.padding))
        teacher = None
        if self.teacher_view == "degraded":
            teacher = student
        elif self.teacher_view == "clean":
            teacher = self._normal(_crop(clean, crops, indices, self.padding))
        if self.cutout:
            own = "" if given is None or (self.coupled and not find(given.name).random) else given.id
            student = _cutout(student, key(self.seed, "cutout", epoch, own), indices, self.cutout)
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


@lru_cache(maxsize=4)
def _resident(images: ImageSet, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A whole set on the accelerator, cached between stages, so that an epoch never waits for the host."""
    return images.images.to(device), images.labels.to(device)


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


def _crop(images: torch.Tensor, address: int, indices: torch.Tensor, padding: int) -> torch.Tensor:
    """Zero-pad by ``padding`` and crop to the image's size at a random place, by one gather for the batch."""
    if not padding:
        return images
    batch, channels, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    top = integers(address, indices * 2, 0, 2 * padding)
    left = integers(address, indices * 2 + 1, 0, 2 * padding)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    flat = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    flat = flat.view(batch, 1, height * width).expand(batch, channels, -1)
    return padded.flatten(2).gather(2, flat).view(batch, channels, height, width)


def _cutout(images: torch.Tensor, address: int, indices: torch.Tensor, side: int) -> torch.Tensor:
    """Set a square of ``side`` to 0 in every image; its centre is anywhere, the border clips it."""
    height, width = images.shape[2:]
    centre_y = integers(address, indices * 2, 0, height - 1)
    centre_x = integers(address, indices * 2 + 1, 0, width - 1)
    rows = _inside(torch.arange(height, device=images.device), centre_y, side)
    columns = _inside(torch.arange(width, device=images.device), centre_x, side)
    hole = rows[:, :, None] & columns[:, None, :]
    return images.masked_fill(hole[:, None], 0.0)


def _inside(positions: torch.Tensor, centres: torch.Tensor, side: int) -> torch.Tensor:
    """bool [B,L]: which positions a hole of ``side`` around each centre covers."""
    first = centres[:, None] - side // 2
    return (positions >= first) & (positions < first + side)
