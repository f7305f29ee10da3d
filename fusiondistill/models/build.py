"""One name, one network: `build_model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusiondistill.models.features import with_features
from fusiondistill.models.network import FeatureNetwork
from fusiondistill.networks import NETWORKS

__all__ = ["build", "build_model"]


def build_model(name: str, classes: int, *, feature_layer: str | None = None, **parameters: Any) -> FeatureNetwork:
    """Build an untrained network by name.

    Every network takes normalised float32 [B, 3, H, W] and returns logits [B, classes]; `forward_features(x)`, or
    `model(x, features=True)`, returns (logits, feature map). The weights are random: set torch's seed to repeat them.

    Args:
        name: `cifar_resnet<depth>` with depth 6n + 2 (8, 14, 20, ..., 56, ..., 110), for images from 8 x 8 pixels; the
            name of a torchvision classifier (`resnet18`, `mobilenet_v3_small`, ...), whose smallest image is another
            for each family: `fusiondistill.networks.torchvision` lists them; or one that a plugin registered.
        classes: number of classes, at least 1.
        feature_layer: dotted name of the module whose output is the feature map; the default is the network's own, or
            the last one before pooling.
        parameters: of the network: ``fusiondistill.NETWORKS.provider(name).parameters``.

    Raises:
        ValueError: unknown name (with the nearest), impossible depth, no such layer (with candidates), no class, or an
            unknown parameter.

    Example:
        >>> logits, feature_map = build_model("cifar_resnet8", 10).forward_features(torch.randn(2, 3, 16, 16))
        >>> feature_map.shape
        torch.Size([2, 64, 4, 4])
    """
    return build(name, classes, feature_layer, parameters)


def build(name: str, classes: int, feature_layer: str | None, parameters: Mapping[str, Any]) -> FeatureNetwork:
    """As :func:`build_model`, for parameters out of a file, which may have any names."""
    if classes < 1:
        raise ValueError(f"a classifier needs at least one class, got {classes}")
    entry = NETWORKS.provider(name)
    network = entry.build(name, classes, feature_layer, entry.checked(parameters))
    layer = None if entry.chooses_layer else feature_layer or entry.feature_layer
    if isinstance(network, FeatureNetwork) and layer is None:
        return network
    return with_features(network, layer, name, classes)
