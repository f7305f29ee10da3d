"""A small network with everything that merging has to think of."""

import torch
from torch import nn


def toy(seed: int) -> nn.Module:
    """A network with convolution, BatchNorm, dropout and a head, with statistics of its own."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.9),
        nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
    )  # fmt: skip
    for _ in range(seed + 1):
        model(torch.randn(8, 3, 6, 6) * (seed + 1))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model
