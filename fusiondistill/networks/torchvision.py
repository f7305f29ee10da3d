"""Torchvision's classifiers with a new head; torchvision is imported where one is built, and not for its names.

Parameter names are torchvision's own, so its state dicts (with as many classes) load as they are. Smallest images,
measured in eval mode, in pixels a side:

- 8 or less: efficientnet, mnasnet, mobilenet, regnet, resnet, resnext, shufflenet, swin, wide_resnet
- googlenet 15, squeezenet1_1 17, squeezenet1_0 21, densenet 29, convnext 32, vgg 32, alexnet 63, inception_v3 75
- vit and maxvit_t: 224 exactly (vit_h_14 too)

Networks with BatchNorm need more than one value per channel to train: two images, or a larger one.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill.networks import NETWORKS
from fusiondistill.networks._pretrained import Pretrained, torch_hub_file, torch_hub_place

if TYPE_CHECKING:
    from torch import nn

__all__ = ["names", "torchvision"]

# Start of a name -> the layer that gives the last feature map before pooling.
_FEATURE_LAYERS = {
    "alexnet": "features",
    "convnext": "features",
    "densenet": "features",
    "efficientnet": "features",
    "googlenet": "inception5b",
    "inception": "Mixed_7c",
    "maxvit": "blocks.3",
    "mnasnet": "layers",
    "mobilenet": "features",
    "regnet": "trunk_output",
    "resnet": "layer4",
    "resnext": "layer4",
    "shufflenet": "conv5",
    "squeezenet": "features",
    "swin": "permute",
    "vgg": "features",
    "vit": "encoder",
    "wide_resnet": "layer4",
}
_WITHOUT_AUXILIARY_HEADS: dict[str, Any] = {"aux_logits": False, "init_weights": True}
_ARGUMENTS = {"googlenet": _WITHOUT_AUXILIARY_HEADS, "inception_v3": _WITHOUT_AUXILIARY_HEADS}


@cache
def names() -> tuple[str, ...]:
    """What ``torchvision.models.list_models(module=torchvision.models)`` gives, without the import."""
    spec = importlib.util.find_spec("torchvision")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "models" if spec else Path()
    pattern = re.compile(r"^@register_model\(\)\n(?:.*\n)*?def (\w+)", re.M)
    return tuple(sorted(name for path in folder.glob("*.py") for name in pattern.findall(path.read_text())))


def pretrained(name: str) -> Pretrained:
    """The weights that torchvision calls its default ones.

    Raises:
        ValueError: torchvision has none for it.
    """
    from torchvision import models

    known = list(models.get_model_weights(name))
    if not known:
        raise ValueError(f"torchvision has no pretrained weights for {name}: say model.weights: FILE, a checkpoint")
    weights = models.get_model_weights(name).DEFAULT
    shown = weights.transforms()
    mean, std = tuple(shown.mean), tuple(shown.std)
    if name in _ARGUMENTS:  # torchvision puts another normalisation into the network together with the weights
        mean = std = (0.5, 0.5, 0.5)
    fetch, at_hand = (lambda: torch_hub_file(weights.url)), (lambda: torch_hub_place(weights.url).exists())
    return Pretrained.of_unit(str(weights), mean, std, fetch, at_hand)


@NETWORKS.register("torchvision", names=names, pretrained=pretrained, source="torchvision.models")
def torchvision(name: str, classes: int, *, feature_layer: str | None = None) -> nn.Module:
    """Torchvision's classifiers by torchvision's names, untrained, with a head for the classes.

    Raises:
        ValueError: no such layer, or no default one for a family that is newer than the table in this file.
    """
    from torchvision import models

    from fusiondistill.models.features import layer_names, with_features

    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **_ARGUMENTS.get(name, {}))
    layer = feature_layer or next((layer for family, layer in _FEATURE_LAYERS.items() if name.startswith(family)), None)
    if layer is None:
        raise ValueError(f"{name} has no default feature layer; name one, such as {layer_names(network)}")
    return with_features(network, layer, name)
