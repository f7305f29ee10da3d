"""Labelled images for training and evaluation, as whole tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

from fusiondistill import memory, randomness
from fusiondistill.counting import counted
from fusiondistill.data.cache import channel_statistics
from fusiondistill.data.cutting import quotas
from fusiondistill.data.errors import DataError

__all__ = ["ImageSet"]

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


class ImageSet:
    """Labelled images of one size, or a selection of them.

    Selections (:meth:`holdout`, :meth:`take`, :meth:`select`) share the memory-mapped pixels and take 8 bytes an image.

    Attributes:
        name: the data set's name.
        classes: the class names; a label is a position in this list.
        flip: whether the images may be mirrored in training; never for digits.
        positions: int64 [N], the row that each image has in the whole split; None for the whole split.
        notes: what users should know of how the images were read, a sentence each.

    Example:
        >>> train, validation = load_images("digits", "train").holdout(0.1, seed=0)
        >>> images, labels = train.gather(torch.arange(128))
    """

    def __init__(
        self,
        name: str,
        images: torch.Tensor,
        labels: torch.Tensor,
        classes: Sequence[str],
        *,
        statistics: Statistics | Callable[[], Statistics] | None = None,
        flip: bool = True,
        fingerprint: str | None = None,
        positions: torch.Tensor | None = None,
        reload: tuple[Callable[..., ImageSet], tuple[Any, ...]] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Wrap tensors, as :func:`load_images` does for stored data.

        Args:
            name: any name.
            images: uint8 [M, 3, H, W], 0..255.
            labels: int64 [M], positions in `classes`.
            classes: the class names.
            statistics: mean and std per channel, 0..255 scale, or a function that finds them when first asked for;
                None: those of `images`.
            flip: whether the images may be mirrored in training.
            fingerprint: identifies the content; None: digested from the tensors when first asked for.
            positions: int64 [N], the rows that belong to this set, in order; None: all.
            reload: a function and its arguments that give the whole split again; with it, pickling sends these
                instead of the pixels.
            notes: what users should know of how the images were read.
        """
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise DataError(f"images must be uint8 [N, 3, H, W], not {images.dtype} {list(images.shape)}.")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(f"labels must be int64 [{len(images)}], not {labels.dtype} {list(labels.shape)}.")
        self.name, self.classes, self.flip, self.positions = name, list(classes), flip, positions
        self._pixels, self._all_labels, self._statistics = images, labels, statistics
        self._whole_fingerprint, self._reload, self.notes = fingerprint, reload, tuple(notes)

    def __len__(self) -> int:
        return len(self._pixels) if self.positions is None else len(self.positions)

    def __repr__(self) -> str:
        height, width = self.size
        classes = counted(len(self.classes), "class")
        return f"ImageSet({self.name}: {counted(len(self), 'image')} {width}x{height}, {classes})"

    @property
    def images(self) -> torch.Tensor:
        """uint8 [N, 3, H, W], 0..255.

        Of a whole split: the memory-mapped tensor itself; do not write into it, since this process would then see other
        images (other processes would not). Of a selection: a copy, made at every access; use :meth:`gather` for
        batches.
        """
        return self._pixels if self.positions is None else self._pixels.index_select(0, self.positions)

    @cached_property
    def labels(self) -> torch.Tensor:
        """int64 [N], positions in `classes`."""
        return self._all_labels if self.positions is None else self._all_labels[self.positions]

    @cached_property
    def _mean_std(self) -> Statistics:
        if self._statistics is None:
            return channel_statistics(self._pixels)
        return self._statistics() if callable(self._statistics) else self._statistics

    @property
    def mean(self) -> tuple[float, ...]:
        """Three floats, 0..255 scale: published, or of the whole training split (which is decoded if necessary)."""
        return self._mean_std[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Three floats, 0..255 scale, from the same images as :attr:`mean`."""
        return self._mean_std[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self._pixels.shape[2:]
        return height, width

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits for the content: :func:`fingerprint` of a split; a selection has its own."""
        whole = self._whole_fingerprint or _tensor_digest(self._pixels, self._all_labels)
        return whole if self.positions is None else _tensor_digest(self.positions, prefix=whole)

    def select(self, rows: torch.Tensor) -> ImageSet:
        """The images at `rows` (int64 [N], counted within this set), in that order; no pixel is copied."""
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"rows {int(rows.min())}..{int(rows.max())} of a set of {len(self)} images")
        rows = rows.to(torch.int64).clone()  # no view of a larger tensor, or of one that the caller may change
        positions = rows if self.positions is None else self.positions[rows]
        return ImageSet(
            self.name,
            self._pixels,
            self._all_labels,
            self.classes,
            flip=self.flip,
            positions=positions,
            statistics=self._statistics,
            fingerprint=self._whole_fingerprint,
            reload=self._reload,
        )

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> ImageSet:
        """The same images with other statistics: three numbers each, 0..255 scale."""
        statistics = (tuple(map(float, mean)), tuple(map(float, std)))
        return ImageSet(
            self.name,
            self._pixels,
            self._all_labels,
            self.classes,
            statistics=statistics,
            flip=self.flip,
            fingerprint=self._whole_fingerprint,
            positions=self.positions,
        )

    def gather(self, indices: torch.Tensor | Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch: a copy, which the caller may write into.

        Args:
            indices: int64 [B], counted within this set, in any order, repeats allowed.

        Returns:
            uint8 [B, 3, H, W] and int64 [B], on the CPU.

        Raises:
            IndexError: an index is negative or too large.
        """
        rows = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
        if self.positions is not None:
            rows = self.positions.index_select(0, rows)
        return self._pixels.index_select(0, rows), self._all_labels.index_select(0, rows)

    def will_need(self, indices: torch.Tensor) -> None:
        """Let the system read these images (int64 [B], as for :meth:`gather`) from the disk, all at once."""
        memory.will_need(self._pixels, indices if self.positions is None else self.positions[indices])

    def holdout(self, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """Cut into (training, validation) at random, every class in proportion.

        The cut is a pure function of the seed and the labels; :func:`quotas` says how many images a class gives. Both
        parts keep the order of this set.

        Args:
            fraction: of the images for validation, between 0 and 1, both excluded.
            seed: any integer.

        Raises:
            DataError: the fraction is outside (0, 1), or so small that nothing would be held out.
        """
        if not 0 < fraction < 1:
            raise DataError(f"a fraction of {fraction} cannot be held out: it must lie between 0 and 1.")
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        quota = quotas(counts, fraction)
        shuffled = randomness.permutation(randomness.key(seed, "holdout"), len(self))
        rank = torch.empty_like(shuffled)
        rank[shuffled] = _rank_within_class(self.labels[shuffled])
        held_out = rank < quota[self.labels]
        if not held_out.any():
            single = int(counts.max()) == 1
            raise DataError(
                f"{fraction} of {counted(len(self), 'image')} in {counted(len(self.classes), 'class')} leaves nothing "
                "to validate on"
                + (", since each class has one image, which stays for training: add images, " if single else ": ")
                + ("" if single else "hold out more, ")
                + "or hold out nothing (data.validation: 0 with select: last)."
            )
        return self.select((~held_out).nonzero().flatten()), self.select(held_out.nonzero().flatten())

    def take(self, n: int) -> ImageSet:
        """A class-balanced subset of n images, always the same one.

        The images are ordered by (rank within their class, class), the first of every class before the second of any,
        and the first n kept in that order; so `take(m)` is the beginning of `take(n)` for m < n.

        Raises:
            DataError: n is not within 1..len(self).
        """
        if not 1 <= n <= len(self):
            raise DataError(f"cannot take {n} images out of {len(self)} ({self.name}).")
        order = _rank_within_class(self.labels) * len(self.classes) + self.labels
        return self.select(torch.argsort(order, stable=True)[:n])

    def at_most(self, n: int) -> ImageSet:
        """:meth:`take` of n images, or of all where there are fewer."""
        return self.take(min(n, len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as an address where there is one, so that messages to workers carry no pixels."""
        if self._reload is None:
            return _wrap, (
                self.name,
                self._pixels,
                self._all_labels,
                self.classes,
                self._mean_std,
                self.flip,
                self.positions,
            )
        load, arguments = self._reload
        return _load_again, (load, arguments, self._whole_fingerprint, self.positions)


def _rank_within_class(labels: torch.Tensor) -> torch.Tensor:
    """How many images of the same class come before each one: int64 [N]."""
    by_class = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return rank


def _tensor_digest(*tensors: torch.Tensor, prefix: str = "") -> str:
    digest = hashlib.sha256(prefix.encode())
    for tensor in tensors:
        digest.update(str(list(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _wrap(
    name: str,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: list[str],
    statistics: Statistics,
    flip: bool,
    positions: torch.Tensor | None,
) -> ImageSet:
    return ImageSet(name, images, labels, classes, statistics=statistics, flip=flip, positions=positions)


def _load_again(
    load: Callable[..., ImageSet], arguments: tuple[Any, ...], fingerprint: str, positions: torch.Tensor | None
) -> ImageSet:
    whole = load(*arguments)
    if whole.fingerprint != fingerprint:
        raise DataError(
            f"{whole.name}: the files on this machine are not those on the sender's ({arguments}). "
            "Give every node the same data."
        )
    return whole if positions is None else whole.select(positions)
