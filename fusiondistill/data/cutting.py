"""Cuts a test split off the training images, class by class; images of the same content stay on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from fusiondistill import randomness
from fusiondistill.counting import counted
from fusiondistill.data.errors import DataError

__all__ = ["content_of", "cut_off", "quotas"]


def content_of(images: torch.Tensor) -> list[bytes]:
    """A digest of 16 bytes of each image's pixels, uint8 [N, 3, H, W]; equal digests are equal images."""
    return [hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest() for image in images]


def quotas(counts: torch.Tensor, fraction: float) -> torch.Tensor:
    """How many images of each class a part gets: int64 [classes].

    Of N images it gets round(fraction * N): each class gives its share rounded down, and those with the largest
    remainders give one more. A class keeps at least one image.

    Args:
        counts: int64 [classes], images of each class.
        fraction: of the images, between 0 and 1.
    """
    share = fraction * counts.to(torch.float64)
    quota = share.floor().to(torch.int64)
    missing = int(fraction * int(counts.sum()) + 0.5) - int(quota.sum())
    quota[torch.argsort(quota - share, stable=True)[: max(missing, 0)]] += 1
    return torch.minimum(quota, (counts - 1).clamp(min=0))


def cut_off(labels: torch.Tensor, contents: Sequence[bytes], classes: int, fraction: float, seed: int) -> torch.Tensor:
    """Which images the test split gets: bool [N], a pure function of the arguments.

    The images are taken in an order drawn from the seed, each with all of the same content, until their class has
    given its quota (:func:`quotas`). A class with a single image, or with copies of one, gives none.

    Args:
        labels: int64 [N], 0 to ``classes`` - 1.
        contents: of each image, like :func:`content_of`.
        fraction: of the images, between 0 and 1.
        seed: any integer.

    Raises:
        DataError: nothing would be cut off.
    """
    alike: dict[bytes, list[int]] = {}
    for row, content in enumerate(contents):
        alike.setdefault(content, []).append(row)
    units = list(alike.values())
    counts = torch.bincount(labels, minlength=classes)
    left = quotas(counts, fraction).tolist()
    whole = [0] * classes
    owner = labels.tolist()
    for unit in units:
        whole[owner[unit[0]]] += 1
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for place in randomness.permutation(randomness.key(seed, "test split"), len(units)).tolist():
        unit = units[place]
        label = owner[unit[0]]
        if len(unit) <= left[label] and whole[label] > 1:
            taken[unit] = True
            left[label] -= len(unit)
            whole[label] -= 1
    if not taken.any():
        raise DataError(
            f"data.test: {fraction:g} of {counted(len(labels), 'image')} in {counted(classes, 'class')} leaves no test "
            "image; a class keeps at least one image for training. Add images, or say a larger part."
        )
    return taken
