"""Where training images are taken from: memory that holds the whole set, or the cache's file, read ahead of need.

Both ways give the same images, so that neither the rule nor the moment can change a result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import torch

from fusiondistill.data import ImageSet
from fusiondistill.memory import free_memory

__all__ = ["SHARE", "bytes_of", "fed", "fits", "held", "too_large"]

SHARE = 0.5
"""The part of a device's free memory that a set may fill; a larger one stays in its file."""
BLOCK = 32 * 2**20
"""Bytes of images (at least one batch) that are read at a time from the file."""
AHEAD = 2
"""Blocks that are read before they are needed."""
_KEPT = 4
"""Sets that stay on an accelerator between stages."""

Images = tuple[torch.Tensor, torch.Tensor]
_resident: dict[tuple[ImageSet, torch.device], Images] = {}


def bytes_of(images: ImageSet) -> int:
    """What the pixels of a set take: a byte for each channel of each pixel."""
    return len(images) * images.gather([0])[0].numel()


def fits(images: ImageSet, device: torch.device, limit: int | None = None) -> bool:
    """Whether a set may lie in the device's memory as a whole.

    Sets that earlier stages left on an accelerator make room if that is what it takes.

    Args:
        limit: bytes that a set may take; None: :data:`SHARE` of the memory that is free now.
    """
    if limit is not None:
        return bytes_of(images) <= limit
    if (images, device) in _resident or bytes_of(images) <= SHARE * free_memory(device):
        return True
    if device.type != "cuda" or not _resident:
        return False
    _resident.clear()
    torch.cuda.empty_cache()
    return bytes_of(images) <= SHARE * free_memory(device)


def too_large(images: ImageSet) -> str:
    """A sentence for users where a set does not fit this machine's memory, else ""."""
    if fits(images, torch.device("cpu")):
        return ""
    return (
        f"{images.name}: the {len(images):,} training images take {bytes_of(images) / 1e9:.1f} GB, more than "
        f"{SHARE:.0%} of the memory that is free here ({free_memory(torch.device('cpu')) / 1e9:.1f} GB): they stay in "
        "the cache's file and are read ahead of need, so the disk may set the pace"
    )


def fed(
    images: ImageSet, device: torch.device, wanted: Iterable[torch.Tensor], limit: int | None = None
) -> Iterator[Images]:
    """The images and labels of one batch after another.

    On a CPU a set that fits is read out of the memory map, whose pages the system keeps. An accelerator holds a copy of
    it. What does not fit is read in blocks by its own thread, :data:`AHEAD` blocks before they are needed.

    Args:
        images: the set.
        device: where the images are needed.
        wanted: int64 [B] for each batch, on the device, counted within the set.
        limit: see :func:`fits`.

    Yields:
        uint8 [B,3,H,W] and int64 [B] on the device, copies.
    """
    if not fits(images, device, limit):
        yield from _read_ahead(images, device, [indices.cpu() for indices in wanted])
    elif device.type == "cpu":
        yield from (images.gather(indices) for indices in wanted)
    else:
        pixels, labels = held(images, device)
        yield from ((pixels.index_select(0, one), labels.index_select(0, one)) for one in wanted)


def held(images: ImageSet, device: torch.device) -> Images:
    """A whole set on a device, pixels and labels, so that an epoch never waits for the host; copied in pieces."""
    found = _resident.get((images, device))
    if found is None:
        while len(_resident) >= _KEPT:
            del _resident[next(iter(_resident))]
        one = images.gather([0])[0]
        pixels = torch.empty((len(images), *one.shape[1:]), dtype=torch.uint8, device=device)
        for rows in torch.arange(len(images)).split(max(1, BLOCK // one.numel())):
            pixels[rows[0] : rows[-1] + 1] = images.gather(rows)[0].to(device)
        found = _resident[images, device] = pixels, images.labels.to(device)
    return found


class _Block(NamedTuple):
    """Some images, and where among them those of each batch are."""

    pixels: torch.Tensor
    labels: torch.Tensor
    places: list[torch.Tensor]


def _read_ahead(images: ImageSet, device: torch.device, wanted: list[torch.Tensor]) -> Iterator[Images]:
    blocks = _blocks(wanted, max(1, BLOCK // images.gather([0])[0].numel()))
    pinned = device.type == "cuda"
    ahead: deque[Future[_Block]] = deque()
    with ThreadPoolExecutor(1, "images") as reader:
        try:
            ahead.extend(reader.submit(_block, images, one, pinned) for one in islice(blocks, AHEAD))
            while ahead:
                block = ahead.popleft().result()
                ahead.extend(reader.submit(_block, images, one, pinned) for one in islice(blocks, 1))
                pixels, labels, *places = (
                    one.to(device, non_blocking=True) for one in (block.pixels, block.labels, *block.places)
                )
                yield from ((pixels.index_select(0, one), labels.index_select(0, one)) for one in places)
        finally:
            for one in ahead:
                one.cancel()


def _blocks(wanted: list[torch.Tensor], most: int) -> Iterator[list[torch.Tensor]]:
    """Batches in their order, so many together that they have at most ``most`` images, or one alone."""
    block: list[torch.Tensor] = []
    count = 0
    for indices in wanted:
        if block and count + len(indices) > most:
            yield block
            block, count = [], 0
        block.append(indices)
        count += len(indices)
    if block:
        yield block


def _block(images: ImageSet, batches: list[torch.Tensor], pinned: bool) -> _Block:
    """Read the images of some batches, each once and in the order of the file."""
    rows, places = torch.cat(batches).unique(return_inverse=True)
    if images.positions is not None:
        order = images.positions[rows].argsort()
        rows, places = rows[order], order.argsort()[places]
    images.will_need(rows)
    parts = [*images.gather(rows), *places.split([len(one) for one in batches])]
    pixels, labels, *split = (one.pin_memory() for one in parts) if pinned else parts
    return _Block(pixels, labels, split)
