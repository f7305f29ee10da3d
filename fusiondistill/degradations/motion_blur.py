"""Motion blur: the camera or the object moves in a straight line while the shutter is open."""

from __future__ import annotations

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery.fields import random_bits
from fusiondistill.degradations.machinery.tensors import in_pieces, rounded_mean

__all__ = ["motion_blur"]

_STRONGEST = 10


@DEGRADATIONS.register("motion_blur", range(0, _STRONGEST + 1), means="2 level + 1 pixels in a line")
def motion_blur(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor) -> torch.Tensor:
    """A straight movement: the mean of 2 * level + 1 pixels in a line, across, down or along either diagonal."""
    return in_pieces(_along_a_line, 2, images, levels, random_bits(keys, 1)[:, 0])


def _along_a_line(images: torch.Tensor, levels: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    direction = (bits & 3).to(torch.int64)  # 0: across, 1: down, 2: falling diagonal, 3: rising diagonal.
    down = (direction >= 1).to(torch.int64) - 2 * (direction == 3).to(torch.int64)
    right = (direction != 1).to(torch.int64)
    total = torch.zeros(images.shape, dtype=torch.int32, device=images.device)
    for distance in range(-_STRONGEST, _STRONGEST + 1):
        inside = (levels >= abs(distance)).to(torch.uint8).view(-1, 1, 1, 1)
        total += _shifted(images, distance * down, distance * right) * inside
    return rounded_mean(total, (2 * levels + 1).to(torch.int32).view(-1, 1, 1, 1))


def _shifted(images: torch.Tensor, down: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Each image moved by its own offset, int64 [B] or [1], edges repeated: uint8 [B,3,H,W]."""
    height, width = images.shape[2:]
    rows = (torch.arange(height, device=images.device) + down[:, None]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=images.device) + right[:, None]).clamp_(0, width - 1)
    where = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None]
    return images.flatten(2).gather(2, where.expand(len(images), 3, -1)).view(images.shape)
