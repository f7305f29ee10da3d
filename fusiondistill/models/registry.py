"""One name, one network: `build_model`."""

import re
from difflib import get_close_matches

from fusiondistill.models.cifar_resnet import CifarResNet
from fusiondistill.models.network import FeatureNetwork

_CIFAR_RESNET = re.compile(r"cifar_resnet(\d{1,9})", re.ASCII)


def build_model(name: str, classes: int, *, feature_layer: str | None = None) -> FeatureNetwork:
    """Build an untrained network by name.

    Every network takes normalised float32 [B, 3, H, W] and returns logits [B, classes]; `forward_features(x)`, or
    `model(x, features=True)`, returns (logits, feature map). The weights are random: set torch's seed to repeat them.

    Args:
        name: `cifar_resnet<depth>` with depth 6n + 2 (8, 14, 20, ..., 56, ..., 110), for images from 8 x 8 pixels; or
            the name of a torchvision classifier (`resnet18`, `mobilenet_v3_small`, ...), whose smallest image is
            another for each family: `fusiondistill.models.torchvision_networks` lists them.
        classes: number of classes, at least 1.
        feature_layer: dotted name of the module whose output is the feature map; the default is the last one before
            pooling.

    Raises:
        ValueError: unknown name (with the nearest), impossible depth, no such layer (with candidates), or no class.

    Example:
        >>> logits, feature_map = build_model("cifar_resnet8", 10).forward_features(torch.randn(2, 3, 16, 16))
        >>> feature_map.shape
        torch.Size([2, 64, 4, 4])
    """
    if classes < 1:
        raise ValueError(f"a classifier needs at least one class, got {classes}")
    if match := _CIFAR_RESNET.fullmatch(name):
        return CifarResNet(int(match[1]), classes, feature_layer=feature_layer or "stage3")
    from fusiondistill.models import torchvision_networks

    known = torchvision_networks.names()
    if name in known:
        return torchvision_networks.build(name, classes, feature_layer)
    near = get_close_matches(name, [*known, "cifar_resnet8", "cifar_resnet20", "cifar_resnet56", "cifar_resnet110"])
    hint = f"did you mean {', '.join(near)}?" if near else "use cifar_resnet<depth> or a classifier of torchvision"
    raise ValueError(f"unknown model {name!r}: {hint}")
