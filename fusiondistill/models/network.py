"""What every network of the project offers: logits, and on request the feature map that distillation compares."""

import torch
from torch import nn


class FeatureNetwork(nn.Module):
    """A classifier of normalised images that can hand out a feature map beside its logits.

    Subclasses implement `forward(x, features=False)`:

    - `x`: float32 [B, 3, H, W], normalised;
    - returns the logits, float [B, classes], or with `features=True` the pair (logits, feature map [B, F, h, w]).

    Both come from one method because DistributedDataParallel and torch.compile only wrap `forward`.
    """

    def forward_features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute (logits [B, classes], feature map [B, F, h, w]) of normalised images float32 [B, 3, H, W]."""
        logits, feature_map = self(x, features=True)
        return logits, feature_map
