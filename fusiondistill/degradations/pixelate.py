"""Pixelate: too few sensor elements."""

from __future__ import annotations

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery.tensors import in_pieces, rounded_mean

__all__ = ["pixelate"]


@DEGRADATIONS.register("pixelate", range(0, 8), means="squares of level + 1 pixels a side")
def pixelate(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Coarse pixels: the mean over squares of side level + 1, counted from the upper left corner."""
    return in_pieces(_over_squares, 4, images, levels)


def _over_squares(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    side = (levels + 1)[:, None]
    top = torch.arange(height, device=images.device) // side * side
    left = torch.arange(width, device=images.device) // side * side
    bottom, right = (top + side).clamp_(max=height), (left + side).clamp_(max=width)
    # Sums over rectangles are differences of sums from the corner.
    sums = torch.zeros((len(images), 3, height + 1, width + 1), dtype=torch.int32, device=images.device)
    sums[:, :, 1:, 1:] = images.cumsum(2, dtype=torch.int32).cumsum(3, dtype=torch.int32)

    def at(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        where = (rows[:, :, None] * (width + 1) + columns[:, None, :]).flatten(1)[:, None]
        return sums.flatten(2).gather(2, where.expand(len(images), 3, -1)).view(images.shape)

    total = at(bottom, right).sub_(at(bottom, left)).sub_(at(top, right)).add_(at(top, left))
    area = ((bottom - top)[:, None, :, None] * (right - left)[:, None, None, :]).to(torch.int32)
    return rounded_mean(total, area)
