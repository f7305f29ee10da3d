"""A network of one's own: any module from normalised images to logits."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from fusiondistill.networks import NETWORKS


class Tiny(nn.Module):
    """Two convolutions and a head."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        first = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        second = [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()]
        self.body = nn.Sequential(*first, *second)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, classes] of normalised images [B, 3, H, W]."""
        return self.head(self.pool(self.body(x)).flatten(1))


@NETWORKS.register("tiny")
def tiny(classes: int, *, width: Annotated[int, Field(ge=1, description="channels of the first layer")] = 8) -> Tiny:
    """Two convolutions, for tests."""
    return Tiny(classes, width)
