"""The compiled twins of ``fields.py``, for one position at a time.

Every step is cast back to 32 bits, since numba computes in 64 and LLVM vectorises twice as wide in 32.
"""

from __future__ import annotations

import numpy as np

from fusiondistill.degradations.machinery.fields import FIRST_PIECE, MIX_1, MIX_2, PIECE_SHIFT
from fusiondistill.degradations.machinery.kernels import inlined

__all__ = ["normal", "normal_piece", "normal_position", "random_bits"]


@inlined
def _lowbias32(x: np.uint32) -> np.uint32:
    x = np.uint32(x ^ np.uint32(x >> 16))
    x = np.uint32(x * MIX_1)
    x = np.uint32(x ^ np.uint32(x >> 15))
    x = np.uint32(x * MIX_2)
    return np.uint32(x ^ np.uint32(x >> 15))


@inlined
def random_bits(key: np.int64, position: int) -> np.int32:
    """See ``fields.random_bits``."""
    x = _lowbias32(np.uint32(np.uint32(position) + np.uint32(key)))
    return np.int32(_lowbias32(np.uint32(x + np.uint32(key >> 32))))


@inlined
def normal_position(bits: np.int32) -> np.int32:
    """Where the quantile function is to be looked up, as the bits of a float32; see ``fields.normal``."""
    return np.float32(np.int32((bits >> 7) & 0xFFFFFE) | 1).view(np.int32)


@inlined
def normal_piece(position: np.int32) -> np.uint32:
    """The place in the tables; unsigned, so that nothing tests for an index from the end."""
    return np.uint32((position >> PIECE_SHIFT) - FIRST_PIECE)


@inlined
def normal(bits: np.int32, position: np.int32, value: np.int32, slope: np.int32) -> np.int32:
    """The normal variate, given what the tables hold for its piece."""
    inside = np.int32((position & ((1 << PIECE_SHIFT) - 1)) >> (PIECE_SHIFT - 16))
    size = np.int32(value + np.int32(np.int32(slope * inside) >> 16))
    sign = np.int32(bits >> 31)
    return np.int32(np.int32(size ^ sign) - sign)
