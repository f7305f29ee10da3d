"""The exact values of images with more than 8 bits a channel, which Pillow itself cuts to their high byte or clips.

A value v of b bits stands for v / (2^b - 1), which is scaled to round(255 v / (2^b - 1)). The bits are those of the
format, or those that ``data.bits`` says: cameras store 10, 12 or 14 bits in files of 16. Floating-point images hold 0
to 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusiondistill.data.errors import BrokenImage, DataError
from fusiondistill.data.orientation import upright

__all__ = ["Deep", "deep_values", "in_planes", "is_deep"]

_OTHER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
"""Pillow's letters for the order of two bytes -> the letter that reads the low byte where it reads the high one."""

_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284


@dataclass(frozen=True)
class Deep:
    """An image with more than 8 bits a channel.

    Attributes:
        colours: float64 [H, W, 3] or, of grey, [H, W, 1], 0..1.
        alpha: float64 [H, W, 1], 0..1; None: opaque.
        largest: the largest integer of the colours, where they are taken to fill 16 bits; else None.
    """

    colours: np.ndarray
    alpha: np.ndarray | None
    largest: int | None


def deep_values(image: Any, again: Callable[[], Any], bits: int | None, where: str) -> Deep | None:
    """The values of an image with more than 8 bits, upright; None for one with 8 bits or fewer.

    Args:
        image: a Pillow image, its pixels not yet read.
        again: opens the same bytes another time.
        bits: how many bits the values fill; None: all that the format has.
        where: for the message.

    Raises:
        BrokenImage: the values are laid out in a way that cannot be read exactly.
        DataError: a value that is outside the range, or a kind of image whose range nothing says.
    """
    mode = image.mode
    if mode == "F":
        return _floats(np.asarray(upright(image)), where)
    if mode.startswith("I"):
        return _grey(image, bits, where)
    raw = _raw_mode(image)
    return _colours(image, again, raw, bits, where) if ";16" in raw else None


def is_deep(image: Any) -> bool:
    """Whether an image has more than 8 bits a channel; its pixels are not read."""
    return image.mode == "F" or image.mode.startswith("I") or ";16" in _raw_mode(image)


def _raw_mode(image: Any) -> str:
    """How Pillow lays out the values in the file, like ``RGB;16B``; "" where that is not said.

    Of a TIFF file with a plane for each channel it is that of the planes together.
    """
    if image.format not in ("PNG", "TIFF") or not image.tile:
        return ""
    arguments = image.tile[0][3]
    raw = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    if len(raw) == 1 and in_planes(image) and max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) == 16:
        return f"{image.mode};16{'B' if image.tag_v2.prefix == b'MM' else 'L'}"
    return raw


def in_planes(image: Any) -> bool:
    """Whether a file is a TIFF whose channels lie one behind the other."""
    return image.format == "TIFF" and image.tag_v2.get(_PLANAR_CONFIGURATION) == 2


def _floats(values: np.ndarray, where: str) -> Deep:
    smallest, largest = float(values.min()), float(values.max())
    if not (smallest >= 0 and largest <= 1):
        raise DataError(
            f"{where}: holds floating-point values from {smallest:g} to {largest:g}. Such images must hold 0 to 1, "
            "which becomes 0 to 255: scale them, or save them with 8 or 16 bits."
        )
    return Deep(values.astype(np.float64)[..., None], None, None)


def _grey(image: Any, bits: int | None, where: str) -> Deep:
    tags = getattr(image, "tag_v2", {})
    stored = max(tags.get(_BITS_PER_SAMPLE, (16,))) if hasattr(tags, "get") else 16
    if image.mode == "I" and image.format == "TIFF" and bits is None:
        raise DataError(
            f"{where}: holds signed integers or integers of 32 bits, whose range nothing says. "
            "Say how many bits they fill, like data.bits: 16."
        )
    clear = image.info.get("transparency")
    values = np.asarray(upright(image)).astype(np.int64)
    fills = bits or (stored if 8 < stored <= 16 else 16)
    scaled = _scaled(values, fills, where)[..., None]
    alpha = (values != clear).astype(np.float64)[..., None] if isinstance(clear, int) else None
    return Deep(scaled, alpha, int(values.max()) if fills == 16 else None)


def _colours(image: Any, again: Callable[[], Any], raw: str, bits: int | None, where: str) -> Deep:
    """Pillow keeps the high byte of each value; a second pass that is told the other order gives the low one."""
    layout, order = raw[:-1], raw[-1]
    packed = in_planes(image) and order == "N"  # libtiff's planes come without their low bytes
    if packed or layout not in ("RGB;16", "RGBA;16", "RGBa;16", "RGBX;16", "LA;16", "CMYK;16"):
        laid = "planes that are compressed" if packed else raw
        raise BrokenImage(f"{where}: its 16 bits a channel are laid out as {laid}. Save it as plain RGB or RGBA first.")
    clear = image.info.get("transparency")
    multiplied, layout = layout == "RGBa;16", layout.replace("a", "A")
    with again() as other:
        told = "RGBA" if layout == "LA;16" else layout + _OTHER[order]  # two values of two bytes are four of one
        other.tile = [_told(tile, told) for tile in other.tile]
        low = np.asarray(upright(other)).astype(np.int64)
    if multiplied or in_planes(image):
        image.tile = [_told(tile, layout + order) for tile in image.tile]
    if layout == "LA;16":
        values = low[..., ::2] * 256 + low[..., 1::2]
    else:
        values = np.asarray(upright(image)).astype(np.int64) * 256 + low
    if layout == "CMYK;16":
        black = 65535 - values[..., 3:]
        values = ((65535 - values[..., :3]) * black + 32767) // 65535
    fills = bits if bits and layout != "CMYK;16" else 16
    colours = values[..., :1] if layout == "LA;16" else values[..., :3]
    alpha = None
    if layout in ("RGBA;16", "LA;16"):
        alpha = _alpha(values[..., -1:], fills)
    elif isinstance(clear, tuple):
        alpha = (colours != np.asarray(clear)).any(-1, keepdims=True).astype(np.float64)
    scaled = _scaled(colours, fills, where)
    if multiplied and alpha is not None:
        scaled = np.divide(scaled, alpha, out=np.zeros_like(scaled), where=alpha > 0).clip(max=1)
    return Deep(scaled, alpha, int(colours.max()) if fills == 16 else None)


def _told(tile: Any, raw: str) -> Any:
    """A tile of Pillow's with another layout of its values; a plane keeps to its channel."""
    arguments = tile[3]
    if not isinstance(arguments, tuple):
        return type(tile)(*tile[:3], raw)
    channel = arguments[0] if len(arguments[0]) == 1 else ""
    return type(tile)(*tile[:3], (channel + raw[raw.index(";") :] if channel else raw, *arguments[1:]))


def _alpha(values: np.ndarray, bits: int) -> np.ndarray:
    """0..1; writers of fewer bits fill an opaque channel with either full range."""
    full = 2**bits - 1
    return np.asarray(values / (65535 if values.max() > full else full))


def _scaled(values: np.ndarray, bits: int, where: str) -> np.ndarray:
    full = 2**bits - 1
    smallest, largest = int(values.min()), int(values.max())
    if smallest < 0 or largest > full:
        raise DataError(
            f"{where}: holds values from {smallest:,} to {largest:,}, more than the {bits} bits (0 to {full:,}) that "
            f"{'data.bits says' if bits != 16 else 'such an image has'}. Correct data.bits, or convert the images."
        )
    return np.asarray(values / full)
