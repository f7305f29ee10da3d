"""Small helpers of the tensor versions."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["in_pieces", "rounded_mean"]


def in_pieces(
    function: Callable[..., torch.Tensor], pieces: int, images: torch.Tensor, *per_image: torch.Tensor
) -> torch.Tensor:
    """``function(images, *per_image)``, computed on that many slices of the batch, one after the other.

    So intermediate results, four or eight bytes for each of the images', stay within 16 times the batch.
    """
    out = torch.empty_like(images)
    step = -(-len(images) // pieces)
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        out[part] = function(images[part], *(tensor[part] for tensor in per_image))
    return out


def rounded_mean(total: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """total / weight, rounded to nearest, as uint8; int32, ``weight`` fits by broadcasting. Uses up the total."""
    return total.add_(weight // 2).floor_divide_(weight).to(torch.uint8)
