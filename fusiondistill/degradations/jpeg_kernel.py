"""JPEG on the CPU, one image after the other, sixteen 8x8 blocks at a time.

Sums are cast to 32 bits before they are shifted: numba computes in 64, and LLVM vectorises twice as wide in 32.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numba.extending import register_jitable

from fusiondistill.degradations import jpeg_arithmetic as arithmetic
from fusiondistill.degradations.kernels import compiled, inlined, over_batch

__all__ = ["run"]

LANES = 16  # Blocks side by side, coefficient by coefficient, so that LLVM vectorises over them.
FORWARD_ROWS, FORWARD_COLUMNS = arithmetic.FORWARD_SHIFTS
INVERSE_COLUMNS, INVERSE_ROWS = arithmetic.INVERSE_SHIFTS
CLEAN = arithmetic.CLEAN

register_jitable(arithmetic._rotation)
register_jitable(arithmetic._odd_part)


@inlined
def _shift(x, bits):  # type: ignore[no-untyped-def]
    """Divide by 2**bits, rounding halves up."""
    return np.int32(np.int32(x + (1 << (bits - 1))) >> bits)


@inlined
def _byte(x):  # type: ignore[no-untyped-def]
    return np.uint8(min(max(np.int32(x), np.int32(0)), np.int32(255)))


def _in_lanes(transform):  # type: ignore[no-untyped-def]
    """One 1-D transform, in place, of the eight coefficients ``start + i * apart`` of every lane."""
    transform = inlined(transform)

    @inlined
    def apply(work, start, apart, bits):  # type: ignore[no-untyped-def]
        step = apart * LANES
        for lane in range(LANES):
            at = start * LANES + lane
            a, b, c, d, e, f, g, h = transform(
                work[at], work[at + step], work[at + 2 * step], work[at + 3 * step],
                work[at + 4 * step], work[at + 5 * step], work[at + 6 * step], work[at + 7 * step],
            )  # fmt: skip
            work[at], work[at + step] = _shift(a, bits), _shift(b, bits)
            work[at + 2 * step], work[at + 3 * step] = _shift(c, bits), _shift(d, bits)
            work[at + 4 * step], work[at + 5 * step] = _shift(e, bits), _shift(f, bits)
            work[at + 6 * step], work[at + 7 * step] = _shift(g, bits), _shift(h, bits)

    return apply


_forward = _in_lanes(arithmetic.forward_transform)
_inverse = _in_lanes(arithmetic.inverse_transform)


@inlined
def _quantise(work, table, reciprocal):  # type: ignore[no-untyped-def]
    """Round to multiples of the table; the transform's factor of 8 goes into the divisor.

    The product with a rounded reciprocal is exact: its argument is half a unit away from every multiple, many times
    the rounding error of a number below 2**20.
    """
    for k in range(64):
        step, inverse = table[k], reciprocal[k]
        half = np.int32(step * 4)
        for lane in range(LANES):
            x = work[k * LANES + lane]
            size = np.float32(np.int32(abs(x) + half)) + np.float32(0.5)
            multiple = np.int32(np.int32(size * inverse) * step)
            work[k * LANES + lane] = -multiple if x < 0 else multiple


@inlined
def _code(plane, table, reciprocal, work):  # type: ignore[no-untyped-def]
    """Transform, quantise and back, in place: uint8 [H,W] of whole 8x8 blocks."""
    across = plane.shape[1] // 8
    blocks = plane.shape[0] // 8 * across
    for first in range(0, blocks, LANES):
        count = min(LANES, blocks - first)
        for lane in range(count):
            top, left = (first + lane) // across * 8, (first + lane) % across * 8
            for y in range(8):
                for x in range(8):
                    work[(y * 8 + x) * LANES + lane] = np.int32(plane[top + y, left + x]) - 128
        for y in range(8):
            _forward(work, y * 8, 1, FORWARD_ROWS)
        for x in range(8):
            _forward(work, x, 8, FORWARD_COLUMNS)
        _quantise(work, table, reciprocal)
        for x in range(8):
            _inverse(work, x, 8, INVERSE_COLUMNS)
        for y in range(8):
            _inverse(work, y * 8, 1, INVERSE_ROWS)
        for lane in range(count):
            top, left = (first + lane) // across * 8, (first + lane) % across * 8
            for y in range(8):
                for x in range(8):
                    plane[top + y, left + x] = _byte(work[(y * 8 + x) * LANES + lane] + 128)


@inlined
def _to_ycc(image, luma, chroma):  # type: ignore[no-untyped-def]
    """Luma, padded to whole blocks, and chroma in full size, padded to whole pairs of blocks along the rows."""
    _, height, width = image.shape
    offset = (128 << 16) + 32767
    for y in range(height):
        for x in range(width):
            red, green, blue = np.int32(image[0, y, x]), np.int32(image[1, y, x]), np.int32(image[2, y, x])
            luma[y, x] = np.int32(19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
            chroma[0, y, x] = np.int32(-11059 * red - 21709 * green + 32768 * blue + offset) >> 16
            chroma[1, y, x] = np.int32(32768 * red - 27439 * green - 5329 * blue + offset) >> 16
        luma[y, width:] = luma[y, width - 1]
        for c in range(2):
            chroma[c, y, width:] = chroma[c, y, width - 1]
    for y in range(height, luma.shape[0]):
        luma[y] = luma[height - 1]


@inlined
def _halve(chroma, small, height):  # type: ignore[no-untyped-def]
    """Means of 2x2, .5 rounded down and up in turn; the last row of means is repeated, not the last row of pixels."""
    rows = (height + 1) // 2
    for y in range(rows):
        upper, lower = chroma[2 * y], chroma[min(2 * y + 1, height - 1)]
        for x in range(small.shape[1]):
            total = np.int32(upper[2 * x]) + np.int32(upper[2 * x + 1]) + lower[2 * x] + lower[2 * x + 1]
            small[y, x] = np.int32(total + 1 + (x & 1)) >> 2
    for y in range(rows, small.shape[0]):
        small[y] = small[rows - 1]


@inlined
def _double_row(small, y, height, width, sums, row):  # type: ignore[no-untyped-def]
    """Row y of chroma at its full size: weights 3/4 and 1/4 each way. ``sums`` has one place more at each end."""
    last_row, last = (height + 1) // 2 - 1, (width + 1) // 2 - 1
    near = y // 2
    if last <= 1:  # libjpeg only repeats the values of so small an image.
        for x in range(width):
            row[x] = small[near, x // 2]
        return
    far = min(near + 1, last_row) if y & 1 else max(near - 1, 0)
    for x in range(last + 1):
        sums[x + 1] = 3 * np.int32(small[near, x]) + small[far, x]
    sums[0], sums[last + 2] = sums[1], sums[last + 1]
    for x in range(last + 1):
        row[2 * x] = np.int32(3 * sums[x + 1] + sums[x] + 8) >> 4
        row[2 * x + 1] = np.int32(3 * sums[x + 1] + sums[x + 2] + 7) >> 4


@inlined
def _to_rgb(luma, small, sums, rows, out):  # type: ignore[no-untyped-def]
    _, height, width = out.shape
    half = small.shape[0] // 2
    for y in range(height):
        _double_row(small[:half], y, height, width, sums, rows[0])
        _double_row(small[half:], y, height, width, sums, rows[1])
        for x in range(width):
            value, cb, cr = np.int32(luma[y, x]), rows[0, x] - 128, rows[1, x] - 128
            out[0, y, x] = _byte(value + (np.int32(91881 * cr + 32768) >> 16))
            out[1, y, x] = _byte(value + (np.int32(-22554 * cb - 46802 * cr + 32768) >> 16))
            out[2, y, x] = _byte(value + (np.int32(116130 * cb + 32768) >> 16))


@compiled("void(int64, int64, uint8[:,:,:,::1], uint8[:,:,:,::1], int64[::1], int32[:,:,::1], float32[:,:,::1])")
def _jpeg(start, stop, images, out, levels, tables, reciprocals):  # type: ignore[no-untyped-def]
    _, _, height, width = images.shape
    tall, wide = (height + 15) // 16 * 8, (width + 15) // 16 * 8  # Chroma at half the size, in whole blocks.
    luma = np.empty(((height + 7) // 8 * 8, (width + 7) // 8 * 8), np.uint8)
    chroma = np.empty((2, height, 2 * wide), np.uint8)
    small = np.empty((2 * tall, wide), np.uint8)  # Both channels, one above the other, to fill the lanes.
    sums, rows = np.empty(wide + 2, np.int32), np.empty((2, 2 * wide), np.int32)
    work = np.zeros(64 * LANES, np.int32)
    for b in range(start, stop):
        level = levels[b]
        if level == CLEAN:
            out[b] = images[b]
            continue
        _to_ycc(images[b], luma, chroma)
        _halve(chroma[0], small[:tall], height)
        _halve(chroma[1], small[tall:], height)
        _code(luma, tables[level, 0], reciprocals[level, 0], work)
        _code(small, tables[level, 1], reciprocals[level, 1], work)
        _to_rgb(luma, small, sums, rows, out[b])


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """int32 [102,2,64] tables and float32 reciprocals of the divisors, 8 times as large."""
    tables = arithmetic.quantisation_tables().reshape(-1, 2, 64)
    return tables, (1 / (8.0 * tables)).astype(np.float32)


def run(images: torch.Tensor, out: torch.Tensor, levels: torch.Tensor) -> None:
    """Write ``images`` at quality ``levels`` to ``out``."""
    over_batch(_jpeg, len(images), images.numpy(), out.numpy(), levels.numpy(), *_tables())
