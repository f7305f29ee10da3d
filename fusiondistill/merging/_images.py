"""Images that a method learns from: so many of a degradation, or batches of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from fusiondistill.merging._at import At, Labelled

__all__ = ["first", "mixtures"]


def first(at: At, name: str, count: int) -> Iterator[Labelled]:
    """The first images of a degradation in batches, ``count`` in all, or as many as there are.

    Raises:
        ValueError: there is none.
    """
    left = count
    for pixels, labels in at.batches(name):
        yield pixels[:left], labels[:left]
        left -= len(labels[:left])
        if left <= 0:
            return
    if left == count:
        raise ValueError(f"there is no image of {name} to merge by")


def mixtures(at: At, each: int) -> Iterator[torch.Tensor]:
    """Endless batches with ``each`` images of every degradation, float32 [D * each,3,H,W]; a shorter rest is left out
    where there is more.

    Raises:
        ValueError: a degradation has no image.
    """
    import torch

    streams = [_endless(at, name, each) for name in at.names]
    while True:
        yield torch.cat([next(stream) for stream in streams])


def _endless(at: At, name: str, each: int) -> Iterator[torch.Tensor]:
    while True:
        seen = 0
        for pixels, _ in at.batches(name):
            parts = [part for part in pixels.split(each) if len(part) == each] or [pixels]
            seen += len(pixels)
            yield from parts
        if not seen:
            raise ValueError(f"there is no image of {name} to merge by")
