"""The input pipeline: whole batches as tensor operations on the training device.

gather -> flip (-> resized crop) -> degrade -> zero-pad and crop -> normalise -> cutout (-> mixup). Every random choice
is addressed by (seed, epoch, image index, degradation, purpose): world size, batch size and resuming change no pixel.

A resized crop takes the padded crop's place. It comes before the degradation, so that a level means in training what it
means in evaluation: a blur's sigma and a noise's grain are not enlarged with the crop.

Under mixup an image's partner is another image of the epoch under the same degradation, which went through all of this
by itself: the partner's number in the order is the image's plus a number that is drawn for the epoch.
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
from fusiondistill.degradations import find
from fusiondistill.degradations.machinery.operator import applied, noise_address
from fusiondistill.feeding import Images, fed
from fusiondistill.level_draws import level_address, noise_seed, random_levels
from fusiondistill.losses import Mixed
from fusiondistill.mixing import blended, mixed, shares
from fusiondistill.randomness import bits, key, permutation, uniform
from fusiondistill.recipe import Augmentation

__all__ = ["Batch", "Pipeline", "as_in_training", "normalise"]

_View = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]
"""Images of one degradation: what the student sees, what teachers see, their labels."""


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
        mixed: what each image is mixed with; its share is counted in all of ``student`` and ``teacher``. None without
            mixup.
    """

    student: torch.Tensor
    teacher: torch.Tensor | None
    labels: torch.Tensor
    slices: list[slice]
    share: float
    weight: float
    image_weights: torch.Tensor | None = None
    mixed: Mixed | None = None


@dataclass(frozen=True)
class Pipeline:
    """Training batches of one stage.

    Attributes:
        images: the training images.
        degradations: names, or with their own levels and id, which then addresses their draws; empty for clean
            training.
        seed: of order, augmentation, levels and noise.
        batch_size: images per degradation and step, over all workers.
        flip: random horizontal flips.
        padding: zeros (black) around the image before the random crop back to its size.
        cutout: side of the hole, 0 for none.
        pairing: ``same`` puts the same images with the same flip and crop under every degradation of a step.
        coupled: whether an image's level is the same under degradations with equally many levels, and its hole under
            those without random numbers: see :func:`level_address`.
        teacher_view: ``clean``, ``degraded`` or None for no teacher view at all.
        protocol: of the degradations.
        device: where batches are made.
        rank, world_size: this worker's place among those that share every batch.
        channels_last: memory layout of the batches.
        scale, ratio: of the resized crop, see :func:`fusiondistill.augmentation.resized_crop`; it stands for the padded
            crop. ``scale`` None: no resized crop.
        class_weights: float [classes], what images weigh in the cross-entropy by their class; None: all the same.
        mixup: alpha of the images' shares, see :func:`fusiondistill.mixing.shares`; 0 for none.
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
    mixup: float = 0.0
    limit: int | None = None

    @property
    def steps(self) -> int:
        """The number of steps of an epoch; the short last batch counts."""
        return -(-len(self.images) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (from 0)."""
        orders, addresses = self.orders(epoch), self.addresses(epoch)
        steps = orders.split(self.batch_size, 1)
        # The images of every step, one degradation after another, as a stream that may be read ahead of need.
        wanted = (self.rows(order) for step in steps for order in self._shard(step)[0])
        images = fed(self.images, self.device, wanted, self.limit)
        weights = self.image_weights()
        for step in steps:
            yield self.batch(step, [next(images) for _ in step], addresses, weights)

    def orders(self, epoch: int) -> torch.Tensor:
        """The images of an epoch under each degradation, int64 [D, N] on the device, in the order of the steps.

        Under mixup there are 2 D rows: those of the images, then those of their partners.

        Each number is the index of an image, plus N for each repeat before it. Every random choice for an image has
        this number as its address, so that repeats look different.
        """
        pairs = [self._pair(one.id if one else None) for one in self._given]
        orders = [self._order(epoch, pair) for pair in pairs]
        if self.mixup:
            shifts = [1 + key(self.seed, "partner", epoch, pair) % max(1, len(orders[0]) - 1) for pair in pairs]
            orders += [order.roll(-shift) for order, shift in zip(orders, shifts, strict=True)]
        return torch.stack(orders)

    def addresses(self, epoch: int) -> torch.Tensor:
        """The rest of the address of each random choice of an epoch, int64 [D, 6] on the device.

        For each degradation these are the addresses of flip, crop, level, noise, hole and share.
        """
        return torch.tensor([self._addresses(epoch, one) for one in self._given]).to(self.device, non_blocking=True)

    def image_weights(self) -> torch.Tensor | None:
        """The weight of each image of the set by its class, float32 [N] on the device; None: all the same."""
        return None if self.class_weights is None else self.class_weights[self.images.labels].to(self.device)

    def rows(self, order: torch.Tensor) -> torch.Tensor:
        """The positions of images of an order within the set."""
        return order % len(self.images) if self.balanced else order

    def batch(
        self,
        step: torch.Tensor,
        images: Sequence[Images],
        addresses: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> Batch:
        """A batch as a function of tensors alone: no value is read back from the device, and no shape depends on one.

        Args:
            step: int64 [D, B], the images of the step on all workers, as in :meth:`orders`; 2 D rows under mixup.
            images: for each row uint8 [B', 3, H, W] and int64 [B'], the images and labels of this worker.
            addresses: int64 [D, 6], see :meth:`addresses`.
            weights: see :meth:`image_weights`.
        """
        mine, share = self._shard(step)
        several = len(self._given)
        drawn = [(given, address.unbind()) for given, address in zip(self._given, addresses, strict=True)]
        parts = [
            self._views(clean, labels, order, *one)
            for (clean, labels), order, one in zip(images, mine, drawn * (len(mine) // several), strict=True)
        ]
        weight = share * step[:several].numel() / self.world_size
        batch = self._join(parts[:several], share, weight)
        if self.mixup:
            partners = self._join(parts[several:], share, weight)
            return self._mix((batch, partners), (mine, step), addresses, weights)
        if weights is None:
            return batch
        own, whole = (weights[self.rows(one.flatten())] for one in (mine, step))
        return replace(batch, image_weights=own / whole.mean())

    def _mix(
        self,
        halves: tuple[Batch, Batch],
        orders: tuple[torch.Tensor, torch.Tensor],
        addresses: torch.Tensor,
        weights: torch.Tensor | None,
    ) -> Batch:
        """The batch whose images are mixed with their partners.

        Args:
            halves: the images, and their partners.
            orders: int64 [2 D, B'] of this worker and [2 D, B] of all.
            addresses, weights: as for :meth:`batch`.
        """
        mine, step = orders
        shared = self._shares(mine, addresses)
        if weights is None:
            return mixed(*halves, shared)
        own, whole = ([weights[self.rows(half.flatten())] for half in order.chunk(2)] for order in orders)
        mean = blended(whole[0], whole[1], self._shares(step, addresses)).mean()
        return mixed(*halves, shared, (own[0] / mean, own[1] / mean))

    def _shares(self, orders: torch.Tensor, addresses: torch.Tensor) -> torch.Tensor:
        """The share of each image of a step, float32 [D * B], from int64 [2 D, B]."""
        images = orders[: len(self._given)]
        return torch.cat([shares(self.mixup, at[-1], one) for at, one in zip(addresses, images, strict=True)])

    @property
    def _given(self) -> list[DegradationConfig | None]:
        return [as_degradation(one) for one in self.degradations] or [None]

    def _addresses(self, epoch: int, given: DegradationConfig | None) -> list[int]:
        pair = self._pair(given.id if given else None)
        flip, crop, mix = (key(self.seed, what, epoch, pair) for what in ("flip", "crop", "mixup"))
        if given is None:
            return [flip, crop, 0, 0, key(self.seed, "cutout", epoch, ""), mix]
        level = key(self.seed, "level", epoch, level_address(given, self.coupled))
        noise = noise_address(noise_seed(given, key(self.seed, "pixels", epoch)), given.name)
        own = "" if self.coupled and not find(given.name).random else given.id
        return [flip, crop, level, noise, key(self.seed, "cutout", epoch, own), mix]

    def _order(self, epoch: int, pair: str) -> torch.Tensor:
        order = key(self.seed, "order", epoch, pair)
        if not self.balanced:
            return permutation(order, len(self.images), self.device)
        positions = balanced_positions(self.images.labels, key(self.seed, "balance", epoch, pair))
        return positions[bits(order, positions).argsort(stable=True)].to(self.device)

    def _pair(self, name: str | None) -> str:
        """The degradation as part of an address; "" where all degradations draw alike."""
        return "" if name is None or self.pairing == "same" else name

    def _shard(self, step: torch.Tensor) -> tuple[torch.Tensor, float]:
        """This worker's part of a step, and its ``share``. Every worker trains on a last batch too small to cut."""
        total = step.shape[1]
        if self.world_size == 1 or total < 2 * self.world_size:
            return step, 1.0
        mine = step[:, self.rank :: self.world_size]
        return mine, mine.shape[1] * self.world_size / total

    def _views(
        self,
        clean: torch.Tensor,
        labels: torch.Tensor,
        indices: torch.Tensor,
        given: DegradationConfig | None,
        addresses: Sequence[torch.Tensor],
    ) -> _View:
        """(student, teacher, labels) of some images under one degradation; ``indices`` are their addresses."""
        flip, crop, level, noise, hole, _ = addresses
        if self.flip:
            flipped = uniform(flip, indices) < 0.5
            clean = torch.where(flipped[:, None, None, None], clean.flip(3), clean)
        padding = self.padding
        if self.scale:
            clean, padding = resized_crop(clean, crop, indices, self.scale, self.ratio), 0
        seen = clean
        if given is not None:
            entry = find(given.name)
            levels = random_levels(given, level, indices)
            seen = applied(entry, clean, levels, noise, indices, self.protocol, entry.checked(given.parameters))
        student = self._normal(padded_crop(seen, crop, indices, padding))
        teacher = None
        if self.teacher_view == "degraded":
            teacher = student
        elif self.teacher_view == "clean":
            teacher = self._normal(padded_crop(clean, crop, indices, padding))
        if self.cutout:
            student = cutout(student, hole, indices, self.cutout)
        return student, teacher, labels

    def _normal(self, images: torch.Tensor) -> torch.Tensor:
        return normalise(images, self.images.mean, self.images.std)

    def _join(self, parts: list[_View], share: float, weight: float) -> Batch:
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


def as_in_training(
    images: ImageSet,
    degradations: Sequence[str | DegradationConfig],
    augmentation: Augmentation,
    *,
    seed: int,
    protocol: str,
    device: torch.device,
    batch_size: int,
) -> Iterator[torch.Tensor]:
    """What a network sees in one epoch of training: random flips, crops, levels and holes, float32 [D * B,3,H,W].

    BatchNorm's statistics have to be those of such images. The black borders and holes of crops and cutout widen them:
    with those of whole images every patch would be scaled otherwise than in training.

    Args:
        augmentation: how the networks' training cut and covered images.
        batch_size: images of each degradation in a batch.
    """
    pipeline = Pipeline(
        images=images,
        degradations=tuple(degradations),
        seed=key(seed, "as in training"),
        batch_size=batch_size,
        flip=images.flip,
        **augmentation.of(images.size),
        pairing="same",
        teacher_view=None,
        protocol=protocol,
        device=device,
    )
    return (batch.student for batch in pipeline.epoch(0))


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
