"""Random changes of whole batches of images. Every draw is a function of an address and an image's index."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from fusiondistill.randomness import Address, integers, uniform

__all__ = ["crop_boxes", "cutout", "padded_crop", "resized_crop"]

_TRIES = 10
_DRAWS = 32
"""Counters of an image: two for each try, two for the place."""
_VALUES = 2**20
"""Of the images that a CPU enlarges at a time, so that they stay in its cache."""
_BITS = 11
"""Of the weights along an axis: 8 bits of a pixel and twice these fit an int32, so that every sum is exact."""


def crop_boxes(
    address: Address,
    indices: torch.Tensor,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> torch.Tensor:
    """The boxes of random resized crops, as torchvision's ``RandomResizedCrop`` draws them.

    A share of the area is drawn evenly from ``scale``, and a ratio of width to height evenly in the logarithm from
    ``ratio``; the first of 10 such draws that gives a box within the image is taken, at an even place. If none does,
    the box is the largest in the middle whose ratio is within ``ratio``.

    Args:
        address: of the draws.
        indices: int64 [B], the images' indices.
        size: (height, width) of the images.

    Returns:
        int64 [4, B]: top, left, height, width in pixels.
    """
    height, width = size
    counters = indices[:, None] * _DRAWS + 2 * torch.arange(_TRIES, device=indices.device)
    area = (scale[0] + (scale[1] - scale[0]) * uniform(address, counters)) * (height * width)
    low, high = map(math.log, ratio)
    shape = (low + (high - low) * uniform(address, counters + 1)).exp()
    widths, heights = ((value.sqrt().round().long()) for value in (area * shape, area / shape))
    fitting = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    none = _middle(height, width, ratio)
    first = torch.where(fitting, torch.arange(_TRIES, device=indices.device), _TRIES).amin(1)
    found = first < _TRIES
    chosen = first.clamp(max=_TRIES - 1)[:, None]
    box_height = torch.where(found, heights.gather(1, chosen)[:, 0], none[0])
    box_width = torch.where(found, widths.gather(1, chosen)[:, 0], none[1])
    room = [height - box_height, width - box_width]
    place = [uniform(address, indices * _DRAWS + 2 * _TRIES + i) for i in range(2)]
    top, left = (
        torch.where(found, (one * (free + 1)).long(), free // 2) for one, free in zip(place, room, strict=True)
    )
    return torch.stack([top, left, box_height, box_width])


def _middle(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """(height, width) of the largest box whose ratio is within ``ratio``."""
    if width < ratio[0] * height:
        return min(height, max(1, round(width / ratio[0]))), width
    if width > ratio[1] * height:
        return height, min(width, max(1, round(height * ratio[1])))
    return height, width


def resized_crop(
    images: torch.Tensor,
    address: Address,
    indices: torch.Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> torch.Tensor:
    """Cut a random box out of every image and enlarge it to the image's size, bilinearly.

    A box is never larger than the image, so that nothing is made smaller and there is nothing to antialias. Sums are
    whole numbers, hence the same on every device and for every batch size; they are within 0.2 of exact ones, before
    the result is rounded.

    Args:
        images: uint8 [B,3,H,W].
        address, indices, scale, ratio: see :func:`crop_boxes`.

    Returns:
        uint8 [B,3,H,W].
    """
    if images.device.type == "cpu" and images.numel() > 2 * _VALUES:
        together = max(1, _VALUES // images[0].numel())
        pieces = zip(images.split(together), indices.split(together), strict=True)
        return torch.cat([resized_crop(part, address, own, scale, ratio) for part, own in pieces])
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = crop_boxes(address, indices, (height, width), scale, ratio)

    above, below, part = _taps(height, top, box_height)
    first = height * torch.arange(batch * channels, device=images.device).view(batch, channels, 1)
    lines = images.reshape(-1, width)
    upper, lower = (lines.index_select(0, (first + one[:, None]).flatten()) for one in (above, below))
    weight = part[:, None].expand(batch, channels, height).reshape(-1, 1)
    rows = _blended(upper.to(torch.int32), lower.to(torch.int32), weight).view(images.shape)

    before, after, part = (one[:, None, None] for one in _taps(width, left, box_width))
    both = _blended(rows.gather(3, before.expand_as(rows)), rows.gather(3, after.expand_as(rows)), part)
    return (both.add_(1 << (2 * _BITS - 1)) >> (2 * _BITS)).to(torch.uint8)


def _taps(size: int, first: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where each pixel of an axis lies within each image's stretch, which is enlarged to the axis: [B, size] each.

    Returns:
        the positions before and after it, int64, and how far it is on the way, int32 in units of 2**-_BITS.
    """
    # Pixel centres: (i + 1/2) length / size - 1/2, in units of 1 / (2 size); beyond the outermost centres the edge.
    at = (2 * torch.arange(size, device=first.device) + 1) * length[:, None] - size
    at = at.clamp(min=0)
    before = at // (2 * size)
    part = (((at % (2 * size)) << _BITS) + size) // (2 * size)
    after = torch.minimum(before + 1, length[:, None] - 1)
    return first[:, None] + before, first[:, None] + after, part.to(torch.int32)


def _blended(before: torch.Tensor, after: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """2**_BITS times the values between two, int32; overwrites both."""
    return after.sub_(before).mul_(part).add_(before.mul_(1 << _BITS))


def padded_crop(images: torch.Tensor, address: Address, indices: torch.Tensor, padding: int) -> torch.Tensor:
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


def cutout(images: torch.Tensor, address: Address, indices: torch.Tensor, side: int) -> torch.Tensor:
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
