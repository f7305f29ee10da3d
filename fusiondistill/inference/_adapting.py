"""A network whose BatchNorm layers blend their stored statistics with those of the images at hand."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fusiondistill.models.classifier import ImageClassifier

__all__ = ["Adapted"]


class Adapted(nn.Module):
    """A classifier that takes images in groups and adapts to each group by itself.

    Args:
        classifier: takes images [B,3,H,W]; is copied. A BatchNorm that was folded away does not adapt.
        images: of a group; the last one of a batch may be smaller.
        prior: images that the stored statistics count for.
    """

    def __init__(self, classifier: nn.Module, images: int, prior: float) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier).eval()
        self.together = images
        if isinstance(self.classifier, ImageClassifier):
            self.classifier.splits = False
        self.layers = 0
        for layer in self.classifier.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
                layer.register_buffer("stored_mean", layer.running_mean.clone(), persistent=False)
                layer.register_buffer("stored_var", layer.running_var.clone(), persistent=False)
                layer.register_forward_pre_hook(_Blend(prior))
                self.layers += 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B,C] of images [B,3,H,W]."""
        return torch.cat([self.classifier(group).float() for group in images.split(self.together)])


class _Blend:
    """Sets a layer's running statistics, before it uses them, to those of stored and present images together."""

    def __init__(self, prior: float) -> None:
        self.prior = prior

    def __call__(self, layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen = inputs[0].detach().float()
        over = [dimension for dimension in range(seen.dim()) if dimension != 1]
        variance, mean = torch.var_mean(seen, over, correction=0)
        share = len(seen) / (len(seen) + self.prior)
        layer.running_mean.copy_(torch.lerp(layer.stored_mean, mean, share))
        layer.running_var.copy_(torch.lerp(layer.stored_var, variance, share))
