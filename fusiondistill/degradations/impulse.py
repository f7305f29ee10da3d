"""Impulse noise: true salt and pepper, on whole pixels."""

from __future__ import annotations

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery import fields
from fusiondistill.degradations.saltpepper import thresholds

__all__ = ["impulse"]


@DEGRADATIONS.register("impulse", range(0, 26), means="% of the pixels")
def impulse(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor) -> torch.Tensor:
    """Whole pixels turn black or white: as salt and pepper, but one draw for the three channels; p = level / 100."""
    limits = thresholds(images.device)[levels].view(-1, 2, 1, 1, 1)
    height, width = images.shape[2:]
    bits = fields.random_bits(keys, height * width).view(-1, 1, height, width)
    return images.masked_fill(bits > limits[:, 1], 0).masked_fill_(bits < limits[:, 0], 255)
