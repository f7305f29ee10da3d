"""Speckle: noise that is proportional to the signal, as in radar and ultrasound pictures."""

from __future__ import annotations

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery import fields
from fusiondistill.degradations.machinery.tensors import in_pieces

__all__ = ["speckle"]

_SPARE_BITS = 6  # Dropped from the variate, so that its product with value and level fits 32 bits.


@DEGRADATIONS.register("speckle", range(0, 11), means="sigma = level / 20 of each value")
def speckle(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor) -> torch.Tensor:
    """Multiplicative Gaussian noise: each value x times 1 + level / 20 * z, clipped to 0..255 and truncated."""
    return in_pieces(_multiply, 2, images, levels, keys)


def _multiply(images: torch.Tensor, levels: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    z = fields.normal(fields.random_bits(keys, images[0].numel()))
    z >>= _SPARE_BITS
    z *= levels[:, None].to(torch.int32)
    z *= images.flatten(1)
    z.floor_divide_(20 << (fields.SCALE_BITS - _SPARE_BITS))
    z += images.flatten(1)
    return z.clamp_(0, 255).to(torch.uint8).view_as(images)
