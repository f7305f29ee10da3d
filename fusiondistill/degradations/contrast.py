"""Contrast, after torchvision's ``adjust_contrast``, in whole numbers."""

from __future__ import annotations

import torch

from fusiondistill.degradations import DEGRADATIONS

__all__ = ["contrast"]


@DEGRADATIONS.register("contrast", range(0, 10), means="tenths of the contrast lost")
def contrast(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Loss of contrast: each image is blended with its mean grey, level tenths of it."""
    red, green, blue = (images[:, i].flatten(1).sum(1, dtype=torch.int64) for i in range(3))
    pixels = images.shape[2] * images.shape[3]
    grey = (299 * red + 587 * green + 114 * blue) // (1000 * pixels)
    share = levels.to(torch.int16).view(-1, 1, 1, 1)
    out = images * (10 - share)
    out += share * grey.to(torch.int16).view(-1, 1, 1, 1)
    return out.floor_divide_(10).to(torch.uint8)
