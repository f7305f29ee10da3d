"""Brightness, after torchvision's ``adjust_brightness``, in whole numbers."""

from __future__ import annotations

import torch

from fusiondistill.degradations import DEGRADATIONS

__all__ = ["brightness"]


@DEGRADATIONS.register("brightness", range(0, 11), means="values times 1 + level / 5")
def brightness(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Over-exposure: values times 1 + level / 5, clipped at 255."""
    out = images * (5 + levels.to(torch.int16)).view(-1, 1, 1, 1)
    return out.floor_divide_(5).clamp_(max=255).to(torch.uint8)
