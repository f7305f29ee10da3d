"""JPEG on the CPU, one image after the other, sixteen 8x8 blocks at a time.

Sums are cast to 32 bits before they are shifted: numba computes in 64, and LLVM vectorises twice as wide in 32.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numba.extending import register_jitable

from fusiondistill.degradations.machinery import jpeg_arithmetic as arithmetic
from fusiondistill.degradations.machinery.kernels import compiled, inlined, over_batch

__all__ = ["run"]

LANES = 16  # Blocks side by side, coefficient by coefficient, so that LLVM vectorises over them.
FORWARD_ROWS, FORWARD_COLUMNS = arithmetic.FORWARD_SHIFTS
INVERSE_COLUMNS, INVERSE_ROWS = arithmetic.INVERSE_SHIFTS
CLEAN = arithmetic.CLEAN

register_jitable(arithmetic._rotation)
register_jitable(arithmetic._odd_part)


@inlined
def _byte(x):  # type: ignore[no-untyped-def]
    return np.uint8(min(max(np.int32(x), np.int32(0)), np.int32(255)))


def _in_lanes(transform, read, write):  # type: ignore[no-untyped-def]
    """Compile a 1-D transform of all rows of all blocks.

    The eight numbers of a row lie ``read`` places apart in ``source`` and ``write`` places in ``target``: 1 and 8 or 8
    and 1, so that each pass also transposes and the next goes the other way. As the distances are constants, LLVM
    sees that no two of the eight streams overlap, and vectorises over the lanes.
    """
    transform, read_row, write_row = inlined(transform), 8 // read * LANES, 8 // write * LANES
    read, write = read * LANES, write * LANES

    @inlined
    def apply(source, target, bits):  # type: ignore[no-untyped-def]
        half = 1 << (bits - 1)
        for r in range(8):
            x, to = source[r * read_row :], target[r * write_row :]
            for i in range(LANES):
                a, b, c, d, e, f, g, h = transform(
                    x[i], x[i + read], x[i + 2 * read], x[i + 3 * read],
                    x[i + 4 * read], x[i + 5 * read], x[i + 6 * read], x[i + 7 * read],
                )  # fmt: skip
                to[i], to[i + write] = np.int32(a + half) >> bits, np.int32(b + half) >> bits
                to[i + 2 * write], to[i + 3 * write] = np.int32(c + half) >> bits, np.int32(d + half) >> bits
                to[i + 4 * write], to[i + 5 * write] = np.int32(e + half) >> bits, np.int32(f + half) >> bits
                to[i + 6 * write], to[i + 7 * write] = np.int32(g + half) >> bits, np.int32(h + half) >> bits

    return apply


_forward = _in_lanes(arithmetic.forward_transform, 8, 1)
_inverse = _in_lanes(arithmetic.inverse_transform, 1, 8)


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
def _code(plane, table, reciprocal, blocks):  # type: ignore[no-untyped-def]
    """Transform, quantise and back, in place: uint8 [H,W] of whole 8x8 blocks; the table is transposed."""
    work, other = blocks
    across = plane.shape[1] // 8
    total = plane.shape[0] // 8 * across
    for first in range(0, total, LANES):
        count = min(LANES, total - first)
        for lane in range(count):
            top, left = (first + lane) // across * 8, (first + lane) % across * 8
            for y in range(8):
                pixels, to = plane[top + y, left:], work[y * LANES + lane :]
                for x in range(8):
                    to[x * 8 * LANES] = np.int32(pixels[x]) - 128
        _forward(work, other, FORWARD_ROWS)
        _forward(other, work, FORWARD_COLUMNS)
        _quantise(work, table, reciprocal)
        _inverse(work, other, INVERSE_COLUMNS)
        _inverse(other, work, INVERSE_ROWS)
        for lane in range(count):
            top, left = (first + lane) // across * 8, (first + lane) % across * 8
            for y in range(8):
                pixels, source = plane[top + y, left:], work[y * LANES + lane :]
                for x in range(8):
                    pixels[x] = _byte(source[x * 8 * LANES] + 128)


@inlined
def _to_ycc(image, luma, chroma):  # type: ignore[no-untyped-def]
    """Luma, padded to whole blocks, and chroma in full size, padded to whole pairs of blocks along the rows."""
    _, height, width = image.shape
    offset = (128 << 16) + 32767
    for y in range(height):
        reds, greens, blues = image[0, y], image[1, y], image[2, y]
        row, cb, cr = luma[y], chroma[0, y], chroma[1, y]
        for x in range(width):
            red, green, blue = np.int32(reds[x]), np.int32(greens[x]), np.int32(blues[x])
            row[x] = np.int32(19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
            cb[x] = np.int32(-11059 * red - 21709 * green + 32768 * blue + offset) >> 16
            cr[x] = np.int32(32768 * red - 27439 * green - 5329 * blue + offset) >> 16
        for x in range(width, luma.shape[1]):
            row[x] = row[width - 1]
        for x in range(width, chroma.shape[2]):
            cb[x], cr[x] = cb[width - 1], cr[width - 1]
    _repeat_last_row(luma, height)


@inlined
def _repeat_last_row(plane, height):  # type: ignore[no-untyped-def]
    for y in range(height, plane.shape[0]):
        row, last = plane[y], plane[height - 1]
        for x in range(plane.shape[1]):
            row[x] = last[x]


@inlined
def _halve(chroma, small, height):  # type: ignore[no-untyped-def]
    """Means of 2x2, .5 rounded down and up in turn; the last row of means is repeated, not the last row of pixels."""
    rows = (height + 1) // 2
    for y in range(rows):
        upper, lower, row = chroma[2 * y], chroma[min(2 * y + 1, height - 1)], small[y]
        for x in range(small.shape[1]):
            total = np.int32(upper[2 * x]) + np.int32(upper[2 * x + 1]) + lower[2 * x] + lower[2 * x + 1]
            row[x] = np.int32(total + 1 + (x & 1)) >> 2
    _repeat_last_row(small, rows)


@inlined
def _double_row(small, y, height, width, sums, row):  # type: ignore[no-untyped-def]
    """Row y of chroma at its full size: weights 3/4 and 1/4 each way. ``sums`` has one place more at each end."""
    columns, near = (width + 1) // 2, small[y // 2]
    if columns <= 2:  # libjpeg only repeats the values of so small an image.
        for x in range(width):
            row[x] = near[x // 2]
        return
    far = small[min(y // 2 + 1, (height + 1) // 2 - 1) if y & 1 else max(y // 2 - 1, 0)]
    before, middle, after = sums, sums[1:], sums[2:]
    for x in range(columns):
        middle[x] = np.int32(3 * np.int32(near[x]) + np.int32(far[x]))
    before[0], after[columns - 1] = middle[0], middle[columns - 1]
    for x in range(columns):
        row[2 * x] = np.int32(3 * middle[x] + before[x] + 8) >> 4
        row[2 * x + 1] = np.int32(3 * middle[x] + after[x] + 7) >> 4


@inlined
def _to_rgb(luma, small, sums, chroma, out):  # type: ignore[no-untyped-def]
    _, height, width = out.shape
    half, cb, cr = small.shape[0] // 2, chroma[0], chroma[1]
    for y in range(height):
        for c in range(2):
            _double_row(small[c * half : (c + 1) * half], y, height, width, sums, chroma[c])
        row, reds, greens, blues = luma[y], out[0, y], out[1, y], out[2, y]
        for x in range(width):
            value, blue, red = np.int32(row[x]), np.int32(cb[x] - 128), np.int32(cr[x] - 128)
            reds[x] = _byte(value + (np.int32(91881 * red + 32768) >> 16))
            greens[x] = _byte(value + (np.int32(-22554 * blue - 46802 * red + 32768) >> 16))
            blues[x] = _byte(value + (np.int32(116130 * blue + 32768) >> 16))


@inlined
def _copy(image, out):  # type: ignore[no-untyped-def]
    pixels, copies = image.reshape(-1), out.reshape(-1)
    for i in range(len(pixels)):
        copies[i] = pixels[i]


@compiled("void(int64, int64, uint8[:,:,:,::1], uint8[:,:,:,::1], int64[::1], int32[:,:,::1], float32[:,:,::1])")
def _jpeg(start, stop, images, out, levels, tables, reciprocals):  # type: ignore[no-untyped-def]
    _, _, height, width = images.shape
    tall, wide = (height + 15) // 16 * 8, (width + 15) // 16 * 8  # Chroma at half the size, in whole blocks.
    luma = np.empty(((height + 7) // 8 * 8, (width + 7) // 8 * 8), np.uint8)
    chroma = np.empty((2, height, 2 * wide), np.uint8)
    small = np.empty((2 * tall, wide), np.uint8)  # Both channels, one above the other, to fill the lanes.
    sums, rows = np.empty(wide + 2, np.int32), np.empty((2, 2 * wide), np.int32)  # One row of chroma, doubled.
    blocks = np.zeros((2, 64 * LANES), np.int32)
    for b in range(start, stop):
        level = levels[b]
        if level == CLEAN:
            _copy(images[b], out[b])
            continue
        _to_ycc(images[b], luma, chroma)
        for c in range(2):
            _halve(chroma[c], small[c * tall : (c + 1) * tall], height)
        for c in range(2):
            _code(small if c else luma, tables[level, c], reciprocals[level, c], (blocks[0], blocks[1]))
        _to_rgb(luma, small, sums, rows, out[b])


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """int32 [102,2,64] transposed tables and float32 reciprocals of the divisors, 8 times as large."""
    tables = np.ascontiguousarray(arithmetic.quantisation_tables().swapaxes(2, 3)).reshape(-1, 2, 64)
    return tables, (1 / (8.0 * tables)).astype(np.float32)


def run(images: torch.Tensor, out: torch.Tensor, levels: torch.Tensor) -> None:
    """Write ``images`` at quality ``levels`` to ``out``."""
    over_batch(_jpeg, len(images), images.numpy(), out.numpy(), levels.numpy(), *_tables())
