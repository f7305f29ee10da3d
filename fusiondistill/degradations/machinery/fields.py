"""Random fields over the pixels of an image, a function of the image's key and the position alone.

The generator is a counter hash on 32-bit integers: `lowbias32` (C. Wellons, "Prospecting for hash functions"), applied
to position + lower half of the key, and once more after the upper half is added. Integer arithmetic alone, so that the
tensors here and the compiled twins in ``field_kernels.py`` agree to the bit, on every device.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from statistics import NormalDist

import torch

__all__ = ["MIX_1", "MIX_2", "cpu_kernels", "normal", "normal_tables", "random_bits"]

MIX_1, MIX_2 = 0x21F0AAAD, 0x735A2D97

SCALE_BITS = 20  # Normal variates are integers, in units of 2**-20.
_STEP_BITS = 6  # Each octave of the tail probability has 64 pieces.
PIECE_SHIFT = 23 - _STEP_BITS  # What is left of a float32's mantissa inside a piece.
FIRST_PIECE = 127 << _STEP_BITS  # The piece of the number 1.0, the smallest there is.


def _signed(word: int) -> int:
    """The int32 with the bits of an unsigned 32-bit number."""
    return word - (1 << 32) if word >= 1 << 31 else word


def _lowbias32(x: torch.Tensor) -> torch.Tensor:
    """In place; the masks make torch's arithmetic shifts of int32 logical ones."""
    x ^= (x >> 16) & 0xFFFF
    x *= _signed(MIX_1)
    x ^= (x >> 15) & 0x1FFFF
    x *= _signed(MIX_2)
    x ^= (x >> 15) & 0x1FFFF
    return x


def random_bits(keys: torch.Tensor, count: int) -> torch.Tensor:
    """32 uniform bits for each of ``count`` positions of every image.

    Args:
        keys: int64 [B], one random number per image.
        count: number of positions, the same for all.

    Returns:
        int32 [B,count]: all 2**32 values are equally likely.
    """
    low = keys.to(torch.int32)[:, None]  # Keeps the lower 32 bits.
    high = (keys >> 32).to(torch.int32)[:, None]
    x = torch.arange(count, dtype=torch.int32, device=keys.device)[None, :] + low
    x = _lowbias32(x)
    x += high
    return _lowbias32(x)


@functools.cache
def normal_tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and slopes of the normal quantile function, int32 each, in pieces that halve towards the tail.

    For odd k in 1..2**24 - 1 the upper tail probability is k / 2**25. The pieces are cut out of k as a float32: its
    exponent and the first 6 bits of its mantissa number the piece, the other 17 say where inside it.
    """
    normal = NormalDist()
    pieces = 24 << _STEP_BITS
    edges = [2.0 ** (i >> _STEP_BITS) * (1 + (i & 63) / 64) / 2.0**25 for i in range(pieces + 1)]
    values = [round(-normal.inv_cdf(p) * (1 << SCALE_BITS)) for p in edges]
    slopes = [b - a for a, b in itertools.pairwise(values)]
    tables = torch.tensor([values[:-1], slopes], dtype=torch.int32).to(device, non_blocking=True)
    return tables[0], tables[1]


def normal(bits: torch.Tensor) -> torch.Tensor:
    """Standard normal variates out of uniform bits.

    Args:
        bits: int32, any shape, from :func:`random_bits`; its memory is used up.

    Returns:
        int32 of the same shape, in units of 2**-20: the sign is the first bit, the size the quantile of the next 23
        by linear interpolation, at most 5.42 and within 2e-5 of the exact quantile.
    """
    values, slopes = normal_tables(bits.device)
    position = (((bits >> 7) & 0xFFFFFE) | 1).to(torch.float32).view(torch.int32)
    piece = (position >> PIECE_SHIFT) - FIRST_PIECE
    position &= (1 << PIECE_SHIFT) - 1
    position >>= PIECE_SHIFT - 16
    size = slopes.index_select(0, piece.flatten()).view_as(bits)
    size *= position
    size >>= 16
    del position
    size += values.index_select(0, piece.flatten()).view_as(bits)
    bits >>= 31  # All ones for a negative variate: (x ^ -1) - (-1) = -x.
    size ^= bits
    return size.sub_(bits)


@functools.cache
def cpu_kernels(module: str) -> Callable[..., None] | None:
    """The compiled CPU kernel ``module.run``, or None where numba is missing: then the tensor operations do it."""
    if importlib.util.find_spec("numba") is None:
        return None
    from_module: Callable[..., None] = importlib.import_module(f"fusiondistill.degradations.machinery.{module}").run
    return from_module
