"""A way of inference of one's own: the network that is surest decides."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from fusiondistill.inference import INFERENCE


class MostConfident(nn.Module):
    """The logits of the network whose largest softmax probability is the highest."""

    def __init__(self, classifiers: Mapping[str, nn.Module], temperature: float) -> None:
        super().__init__()
        self.classifiers, self.temperature = nn.ModuleList(classifiers.values()), temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of images, uint8 [B, 3, H, W]."""
        logits = torch.stack([one(images) for one in self.classifiers], 1) / self.temperature  # [B, M, C]
        surest = logits.softmax(2).amax(2).argmax(1)
        return logits[torch.arange(len(logits), device=logits.device), surest]


@INFERENCE.register("confident")
def confident(
    classifiers: Mapping[str, nn.Module],
    *,
    temperature: Annotated[float, Field(gt=0, description="divides the logits")] = 1.0,
) -> nn.Module:
    """The network that is surest decides."""
    return MostConfident(classifiers, temperature)
