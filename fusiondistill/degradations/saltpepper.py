"""Salt and pepper on single channel values, as ``imagedegrade.np.saltpepper`` makes it."""

from __future__ import annotations

import functools

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery import fields

__all__ = ["saltpepper"]

SALT = {"standard": 255, "paper": 1}  # The released code left imagedegrade's intensity range at (0, 1).
LEVELS = range(0, 26)


@functools.cache
def thresholds(device: torch.device) -> torch.Tensor:
    """int32 [26,2]: a value is salt if its 32 random bits, signed, are below the first, pepper if above the second.

    With p = level / 100 the reference draws pepper with probability p/2, then salt over it with probability p/2:
    salt p/2, pepper (1 - p/2) p/2. Salt from the lower end and pepper from the upper: each only grows with the level.
    """
    rows = []
    for level in LEVELS:
        salt = (level << 32) // 200
        pepper = ((level * (200 - level)) << 32) // 40000
        rows.append([salt - (1 << 31), (1 << 31) - 1 - pepper])
    return torch.tensor(rows, dtype=torch.int32).to(device, non_blocking=True)


@DEGRADATIONS.register("saltpepper", LEVELS, means="% of the values", unseen=False)
def saltpepper(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor, protocol: str) -> torch.Tensor:
    """Salt and pepper, each channel value independently; p = level / 100.

    Pepper is 0 with probability p/2, then salt is 255 with probability p/2 (``protocol="paper"``: salt is 1).
    """
    limits = thresholds(images.device)[levels]
    kernel = fields.cpu_kernels("saltpepper_kernel") if images.device.type == "cpu" else None
    if kernel is None:
        return tensor_saltpepper(images, limits, keys, SALT[protocol])
    out = torch.empty_like(images)
    kernel(images, out, limits, keys, SALT[protocol])
    return out


def tensor_saltpepper(images: torch.Tensor, limits: torch.Tensor, keys: torch.Tensor, salt: int) -> torch.Tensor:
    """The same in tensor operations, for any device; ``limits`` int32 [B,2] are rows of :func:`thresholds`."""
    bits = fields.random_bits(keys, images[0].numel())
    out = images.flatten(1).masked_fill(bits > limits[:, 1:], 0)
    return out.masked_fill_(bits < limits[:, :1], salt).view_as(images)
