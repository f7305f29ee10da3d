"""The ResNets of He et al. for small images (arXiv:1512.03385, section 4.2), as FusionDistill uses them."""

import torch
import torch.nn.functional as F
from torch import nn

from fusiondistill.models.network import FeatureNetwork

STAGES = ("stage1", "stage2", "stage3")
_POOLED = 2  # FusionDistill pools to 2x2; the classic CIFAR ResNet pools to 1x1


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut: the identity, or a 1x1 convolution where shapes change."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut.append(nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, channels_in, H, W] to [B, channels, H / stride, W / stride] (rounded up)."""
        residual = F.relu(self.norm1(self.conv1(x)), inplace=True)
        residual = self.norm2(self.conv2(residual))
        return F.relu(residual + self.shortcut(x), inplace=True)


class CifarResNet(FeatureNetwork):
    """ResNet of `depth` = 6n + 2 layers for small images: a 3x3 stem, three stages of n blocks, a linear head.

    The stages have 16, 32 and 64 channels, stages 2 and 3 halve the image. The head pools to 2x2 (not 1x1, as the
    classic network does), so it sees 256 values. Any image of at least 8 x 8 pixels will do. Convolutions start from
    Kaiming's normal distribution (fan out), the head from N(0, 0.01) without bias; set torch's seed first to repeat it.

    Args:
        depth: 8, 14, 20, ..., 56, ...
        classes: number of classes.
        feature_layer: the stage whose output, after its last ReLU, is the feature map; "stage3" is
            [B, 64, H / 4, W / 4], "stage2" [B, 32, H / 2, W / 2], "stage1" [B, 16, H, W].

    Raises:
        ValueError: no such depth or stage.

    Example:
        >>> logits, feature_map = CifarResNet(56, 100).forward_features(torch.randn(2, 3, 32, 32))
        >>> logits.shape, feature_map.shape
        (torch.Size([2, 100]), torch.Size([2, 64, 8, 8]))
    """

    def __init__(self, depth: int, classes: int, *, feature_layer: str = "stage3") -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"a CIFAR ResNet has 6n+2 layers (8, 14, 20, ..., 56, 110, ...), not {depth}")
        if feature_layer not in STAGES:
            raise ValueError(f"a CIFAR ResNet has no feature layer {feature_layer!r}; choose from {', '.join(STAGES)}")
        self.feature_layer = feature_layer
        blocks = (depth - 2) // 6
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.stage1 = _stage(16, 16, blocks, stride=1)
        self.stage2 = _stage(16, 32, blocks, stride=2)
        self.stage3 = _stage(32, 64, blocks, stride=2)
        self.head = nn.Linear(64 * _POOLED * _POOLED, classes)
        self.apply(_initialise)

    def forward(self, x: torch.Tensor, features: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Compute the logits [B, classes] of normalised images float32 [B, 3, H, W]; see `FeatureNetwork`."""
        feature_map = x = F.relu(self.norm(self.conv(x)), inplace=True)
        for name in STAGES:
            x = getattr(self, name)(x)
            if name == self.feature_layer:
                feature_map = x
        logits = self.head(F.adaptive_avg_pool2d(x, _POOLED).flatten(1))
        return (logits, feature_map) if features else logits


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
