"""Defocus: every point becomes a disc."""

from __future__ import annotations

import functools
import math

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery.tensors import in_pieces, rounded_mean

__all__ = ["defocus"]

_STRONGEST = 10
_DISC_RADIUS = 5  # The widest disc reaches this far.


@functools.cache
def _discs(device: torch.device) -> torch.Tensor:
    """int32 [11,11,11]: the disc of each level, its rim in sixteenths of a pixel."""
    span = range(-_DISC_RADIUS, _DISC_RADIUS + 1)
    table = [
        [[round(16 * min(1.0, max(0.0, 1.0 + 0.4 * level - math.hypot(x, y)))) for x in span] for y in span]
        for level in range(_STRONGEST + 1)
    ]
    return torch.tensor(table, dtype=torch.int32).to(device, non_blocking=True)


@DEGRADATIONS.register("defocus", range(0, _STRONGEST + 1), means="a disc of radius 0.4 level + 1 pixels")
def defocus(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Out of focus: the mean over a disc, its radius growing by 0.4 pixels per level."""
    return in_pieces(_over_a_disc, 2, images, _discs(images.device)[levels])


def _over_a_disc(images: torch.Tensor, discs: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    rows = torch.arange(-_DISC_RADIUS, height + _DISC_RADIUS, device=images.device).clamp_(0, height - 1)
    columns = torch.arange(-_DISC_RADIUS, width + _DISC_RADIUS, device=images.device).clamp_(0, width - 1)
    padded = images.index_select(2, rows).index_select(3, columns)
    total = torch.zeros(images.shape, dtype=torch.int32, device=images.device)
    for y in range(2 * _DISC_RADIUS + 1):
        for x in range(2 * _DISC_RADIUS + 1):
            if math.hypot(y - _DISC_RADIUS, x - _DISC_RADIUS) < 1.0 + 0.4 * _STRONGEST:
                total += padded[:, :, y : y + height, x : x + width] * discs[:, y, x].view(-1, 1, 1, 1)
    return rounded_mean(total, discs.sum((1, 2), dtype=torch.int32).view(-1, 1, 1, 1))
