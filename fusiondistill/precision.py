"""Reduced precision: torch's types by the names that a config has, and where they are slower than float32."""

from __future__ import annotations

import contextlib
import time
from functools import cache

import torch

__all__ = ["AUTOCAST", "autocast", "slow_precision", "without_autocast"]

AUTOCAST: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name -> type of autocast; None: no autocast."""
_SIDE = 256
"""Of the matrices that are multiplied to see how fast a type is: 0.2 ms in float32 on one thread."""
_SLOWER = 1.2


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context in which networks are run."""
    dtype = AUTOCAST[precision]
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context in which losses are computed, independent of the one around it."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def slow_precision(precision: str, device: torch.device) -> str | None:
    """A sentence where a processor multiplies numbers of that precision slower than float32; else None.

    That a processor has instructions for bfloat16 does not say that they are fast, so it is measured, once a process.
    """
    dtype = AUTOCAST[precision]
    if dtype is None or device.type != "cpu":
        return None
    ratio = _seconds(dtype) / _seconds(torch.float32)
    if ratio < _SLOWER:
        return None
    return f"precision: {precision} may be slower than fp32 here: this processor takes {ratio:.1f} times as long for it"


@cache
def _seconds(dtype: torch.dtype) -> float:
    """The shortest time of a product of two matrices."""
    matrix, times = torch.ones(_SIDE, _SIDE, dtype=dtype), []
    for _ in range(8):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return min(times)
