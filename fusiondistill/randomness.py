"""Random numbers by address.

Every random number is a pure function of an address, such as (seed, epoch, image index, purpose). There is no stream,
so batch size, order, sharding, resuming and device cannot change a value.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["Address", "bits", "integers", "key", "permutation", "uniform"]

Address = int | torch.Tensor
"""The constant part of an address: a number from :func:`key`, or that as an int64 tensor [], which may lie on a GPU and
be another in the next step."""

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the increment of splitmix64, as a signed number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def key(*parts: int | str) -> int:
    """Turn the constant part of an address into one signed 64-bit number.

    Example: ``key(seed, "crop", epoch)``. Equal parts give equal keys on every machine and Python version; the parts
    ``(1, "1")`` and ``("1", 1)`` differ.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _shift(x: torch.Tensor, n: int) -> torch.Tensor:
    """Logical right shift of int64 (torch's own is arithmetic)."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def bits(key: Address, counters: torch.Tensor) -> torch.Tensor:
    """64 random bits for every counter.

    Args:
        key: a number from :func:`key`, or a tensor that holds it.
        counters: int64 tensor of any shape: the variable part of the address, an image index for example.

    Returns:
        int64 tensor of the same shape and device; all 64 bits are uniform. The generator is splitmix64 (Steele, Lea
        and Flood, OOPSLA 2014), evaluated at the counter; integer arithmetic alone, so CPU and GPU agree.
    """
    x = counters * _GOLDEN + key
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def uniform(key: Address, counters: torch.Tensor) -> torch.Tensor:
    """float64 in [0, 1), one for every counter: the upper 53 of its :func:`bits`."""
    return _shift(bits(key, counters), 11).to(torch.float64) * 2.0**-53


def integers(key: Address, counters: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """int64 uniform in low..high, both ends included, one for every counter."""
    if high < low:
        raise ValueError(f"an empty range of integers: {low}..{high}")
    return _shift(bits(key, counters), 11) % (high - low + 1) + low


def permutation(key: int, n: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """A random order of 0..n-1, int64 [n]: the counters 0..n-1 sorted by their bits."""
    return torch.argsort(bits(key, torch.arange(n, device=device)), stable=True)
