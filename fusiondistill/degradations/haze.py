"""Haze: light scattered into the picture, thicker in some places than in others."""

from __future__ import annotations

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery.fields import random_bits
from fusiondistill.degradations.machinery.tensors import in_pieces

__all__ = ["haze"]

AIRLIGHT = 230
GRID = 5  # Random thicknesses along each side, with straight lines in between.


@DEGRADATIONS.register("haze", range(0, 11), means="tenths of light grey where it is thickest")
def haze(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor) -> torch.Tensor:
    """Haze in drifts: a blend with light grey (230) whose share varies smoothly from level / 20 to level / 10."""
    return in_pieces(_blend, 2, images, levels, random_bits(keys, GRID * GRID))


def _blend(images: torch.Tensor, levels: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    thickness = 128 + ((bits >> 24) & 0x7F).view(-1, GRID, GRID)  # A half to 1, in units of 1/256.
    for axis in (1, 2):
        thickness = _stretch(thickness, images.shape[axis + 1], axis)
    share = (thickness * levels.to(torch.int32).view(-1, 1, 1)).floor_divide_(10)[:, None]
    out = images * (256 - share)
    out += AIRLIGHT * share
    return (out >> 8).to(torch.uint8)


def _stretch(grid: torch.Tensor, size: int, axis: int) -> torch.Tensor:
    """Interpolate linearly along an axis to ``size`` values, in whole numbers."""
    place = torch.arange(size, device=grid.device) * (256 * (GRID - 1)) // max(1, size - 1)
    left = (place >> 8).clamp_(max=GRID - 2)
    shape = [1, 1, 1]
    shape[axis] = size
    inside = (place - (left << 8)).to(torch.int32).view(shape)
    return (grid.index_select(axis, left) * (256 - inside) + grid.index_select(axis, left + 1) * inside) >> 8
