"""The integer arithmetic of baseline JPEG as libjpeg defines it: transforms and quantisation tables.

The transforms are libjpeg's "islow" ones (Loeffler, Ligtenberg and Moschytz, ICASSP 1989), with constants of 13 bits.
One pass is an exact integer linear map followed by one rounded shift, so the same functions serve twice: compiled, they
are the CPU kernel; applied to the unit vectors, they give the matrices of the tensor version.
"""

from __future__ import annotations

import numpy as np

__all__ = ["forward_transform", "inverse_transform", "matrix", "quantisation_tables"]

FORWARD_SHIFTS = (11, 15)  # Rows, then columns: two bits of the constants stay in between for precision.
INVERSE_SHIFTS = (11, 18)  # Columns, then rows; the three bits more are the transform's own factor of 8.
CLEAN = 101  # The level that leaves an image as it is.


def _rotation(a, b):  # type: ignore[no-untyped-def]
    """The even part's rotation by 6 pi / 16: the pair that becomes coefficients 2 and 6, or comes from them."""
    both = (a + b) * 4433
    return both + a * 6270, both - b * 15137


def _odd_part(a, b, c, d):  # type: ignore[no-untyped-def]
    """The odd part, its own transpose: (7, 5, 3, 1) in, (7, 5, 3, 1) out."""
    z1, z2, z3, z4 = (a + d) * -7373, (b + c) * -20995, a + c, b + d
    z5 = (z3 + z4) * 9633
    z3, z4 = z3 * -16069 + z5, z4 * -3196 + z5
    return a * 2446 + z1 + z3, b * 16819 + z2 + z4, c * 25172 + z2 + z3, d * 12299 + z1 + z4


def forward_transform(x0, x1, x2, x3, x4, x5, x6, x7):  # type: ignore[no-untyped-def]
    """Eight samples to eight coefficients, before the rounded shift."""
    e0, e1, e2, e3 = x0 + x7, x1 + x6, x2 + x5, x3 + x4
    s0, s3, s1, s2 = e0 + e3, e0 - e3, e1 + e2, e1 - e2
    c2, c6 = _rotation(s3, s2)
    c7, c5, c3, c1 = _odd_part(x3 - x4, x2 - x5, x1 - x6, x0 - x7)
    return (s0 + s1) * 8192, c1, c2, c3, (s0 - s1) * 8192, c5, c6, c7


def inverse_transform(c0, c1, c2, c3, c4, c5, c6, c7):  # type: ignore[no-untyped-def]
    """Eight coefficients to eight samples, before the rounded shift."""
    t3, t2 = _rotation(c2, c6)
    t0, t1 = (c0 + c4) * 8192, (c0 - c4) * 8192
    e0, e3, e1, e2 = t0 + t3, t0 - t3, t1 + t2, t1 - t2
    o3, o2, o1, o0 = _odd_part(c7, c5, c3, c1)
    return e0 + o0, e1 + o1, e2 + o2, e3 + o3, e3 - o3, e2 - o2, e1 - o1, e0 - o0


def matrix(transform) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The integer matrix M of a transform, int64 [8,8]: transform(x) = M x."""
    return np.array([transform(*unit) for unit in np.eye(8, dtype=np.int64).tolist()], dtype=np.int64).T


# Tables K.1 and K.2 of the JPEG standard (ITU-T T.81, annex K).
_LUMINANCE = """
16 11 10 16  24  40  51  61   12 12 14 19  26  58  60  55   14 13 16 24  40  57  69  56   14 17 22 29  51  87  80  62
18 22 37 56  68 109 103  77   24 35 55 64  81 104 113  92   49 64 78 87 103 121 120 101   72 92 95 98 112 100 103  99
"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99   24 26 56 99 99 99 99 99   47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
"""


def quantisation_tables() -> np.ndarray:
    """int32 [102,2,8,8]: luminance and chrominance tables at quality 0..101, scaled as libjpeg scales the standard's.

    Quality 0 and 101 are fillers: the one is no level, the other means no compression at all.
    """
    basic = np.array([_LUMINANCE.split(), _CHROMINANCE.split()], dtype=np.int64).reshape(2, 8, 8)
    qualities = np.arange(102).clip(1, 100)
    scale = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities).reshape(-1, 1, 1, 1)
    return ((basic * scale + 50) // 100).clip(1, 255).astype(np.int32)
