"""What degradations leave in an image, in numbers: extremes, edges, residuals, and the 8x8 blocks of JPEG."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["FEATURES", "SMALLEST", "Traces"]

SMALLEST = 8
"""Pixels a side that an image must have: one block of JPEG."""
FEATURES = 285
"""How many numbers :class:`Traces` gives."""
_STEPS = (2.0, 6.0, 16.0, 40.0)
"""Of the residual, on the scale 0..255: the part of the pixels below each is a number."""
_ROUNDED = 1.5
"""A coefficient of a block below it counts as rounded away."""
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""ITU-R BT.601, as JFIF has it, without the offset of the colours."""


class Traces(nn.Module):
    """Fixed numbers of raw images, uint8 [B,3,H,W] -> float32 [B, :data:`FEATURES`]; nothing in it is learned.

    Black and white (6): the square root of the part of the values that are 0, and 255, per channel. Of Y, Cb and Cr
    (15): mean and deviation, and log(1 + mean) of the absolute differences of neighbours, across and down, and of the
    Laplacian. Of Y and Cb (8): the part of the pixels whose absolute Laplacian lies below each of four steps. Of the
    8x8 blocks of Y and Cb (256): for each of the 64 coefficients of the cosine transform that JPEG has, the mean of
    log(1 + |c|), and the part of the blocks in which it is rounded away. Pixels beyond the last whole block are left
    out of the blocks.

    Raises:
        ValueError: images below 8x8 pixels.
    """

    blocks: torch.Tensor
    colours: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        at = torch.arange(8.0)
        cosines = torch.cos((2 * at[None] + 1) * at[:, None] * math.pi / 16) / 2
        cosines[0] /= math.sqrt(2)
        basis = torch.einsum("ui,vj->ijuv", cosines, cosines).reshape(64, 64)
        self.register_buffer("blocks", basis, persistent=False)
        self.register_buffer("colours", torch.tensor(_TO_YCBCR).reshape(3, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The numbers of images uint8 [B,3,H,W], H and W from 8: float32 [B, FEATURES]."""
        height, width = images.shape[2:]
        if height < SMALLEST or width < SMALLEST:
            raise ValueError(f"a router takes images from {SMALLEST}x{SMALLEST} pixels, these have {width}x{height}")
        pixels = images.float()
        extremes = [(pixels < 0.5), (pixels > 254.5)]
        planes = F.conv2d(pixels, self.colours)
        down, across = planes.diff(dim=2).abs(), planes.diff(dim=3).abs()
        inner = planes[:, :, 1:-1, 1:-1] * 4
        inner = inner - planes[:, :, 2:, 1:-1] - planes[:, :, :-2, 1:-1]
        residual = (inner - planes[:, :, 1:-1, 2:] - planes[:, :, 1:-1, :-2]).abs()
        return torch.cat(
            [
                *(one.float().mean((2, 3)).sqrt() for one in extremes),
                planes.mean((2, 3)),
                planes.flatten(2).std(2),
                *(one.mean((2, 3)).log1p() for one in (across, down, residual)),
                *((residual[:, :2] < step).float().mean((2, 3)) for step in _STEPS),
                *self._of_blocks(planes[:, :2]),
            ],
            1,
        )

    def _of_blocks(self, planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B,128] each, of planes float32 [B,2,H,W]."""
        down, across = planes.shape[2] // 8, planes.shape[3] // 8
        whole = planes[:, :, : down * 8, : across * 8]
        parts = whole.reshape(-1, 2, down, 8, across, 8).permute(0, 1, 2, 4, 3, 5).reshape(-1, 2, down * across, 64)
        found = (parts @ self.blocks).abs()
        return found.log1p().mean(2).flatten(1), (found < _ROUNDED).float().mean(2).flatten(1)
