"""A data source and two networks for golden results: a plugin, so that nothing of it stays in the registries."""

from collections.abc import Iterator

import torch
from torch import nn

from fusiondistill.networks import NETWORKS
from fusiondistill.sources import SOURCES, Contents, Files, Row
from golden.material import CLASSES, picture


@SOURCES.register("golden_images", mean=(110, 120, 130), std=(60, 65, 70))
def golden_images(files: Files, split: str, *, count: int = 24) -> Contents:
    """Slopes with noise, 12x12."""
    rows: Iterator[Row] = (Row(picture(f"{split} {i}", i % CLASSES, 12, 12), i % CLASSES, str(i)) for i in range(count))
    return Contents([f"class {i}" for i in range(CLASSES)], rows)


class Conv(nn.Module):
    """Two convolutions with BatchNorm, and a head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        first = [nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
        self.body = nn.Sequential(*first, nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU())
        self.head = nn.Linear(5, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


@NETWORKS.register("golden_conv", feature_layer="body")
def golden_conv(classes: int) -> nn.Module:
    """Two convolutions and a head."""
    return Conv(classes)


class Counter(nn.Module):
    """A linear network; of whole pixels and whole weights its sums are whole, below 2^24, and so exact in float32."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.grid = nn.AdaptiveMaxPool2d(4)
        self.head = nn.Linear(48, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.grid(x).flatten(1))


@NETWORKS.register("golden_counter", feature_layer="grid")
def golden_counter(classes: int) -> nn.Module:
    """A linear network over a grid of maxima."""
    return Counter(classes)
