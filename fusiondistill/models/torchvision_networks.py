"""Torchvision's classifiers with a new head, handing out a feature map; torchvision is imported on first use.

Parameter names are torchvision's own, so its state dicts (with as many classes) load as they are. Smallest images,
measured in eval mode, in pixels a side:

- 8 or less: efficientnet, mnasnet, mobilenet, regnet, resnet, resnext, shufflenet, swin, wide_resnet
- googlenet 15, squeezenet1_1 17, squeezenet1_0 21, densenet 29, convnext 32, vgg 32, alexnet 63, inception_v3 75
- vit and maxvit_t: 224 exactly (vit_h_14 too)

Networks with BatchNorm need more than one value per channel to train: two images, or a larger one.
"""

from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import nn

from fusiondistill.models.network import FeatureNetwork

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
_made: dict[type[nn.Module], type[FeatureNetwork]] = {}
_ARGUMENTS = {"googlenet": _WITHOUT_AUXILIARY_HEADS, "inception_v3": _WITHOUT_AUXILIARY_HEADS}


def names() -> list[str]:
    """Names of all classifiers of the installed torchvision."""
    from torchvision import models

    return models.list_models(module=models)


def build(name: str, classes: int, feature_layer: str | None) -> FeatureNetwork:
    """Build torchvision's classifier `name`, untrained, with `classes` outputs; see `build_model`.

    Raises:
        ValueError: no such layer, or no default one for a family that is newer than this table.
    """
    from torchvision import models

    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **_ARGUMENTS.get(name, {}))
    if feature_layer is None:
        feature_layer = next((layer for family, layer in _FEATURE_LAYERS.items() if name.startswith(family)), None)
    if feature_layer is None:
        raise ValueError(f"{name} has no default feature layer; name one, such as {_candidates(network, '')}")
    modules = {key: module for key, module in network.named_modules() if _runs(module)}
    if feature_layer not in modules or not feature_layer:
        candidates = _candidates(network, feature_layer)
        raise ValueError(f"{name} has no feature layer {feature_layer!r}; candidates: {candidates}")
    tap = _Tap(feature_layer)
    modules[feature_layer].register_forward_hook(tap)
    network.__dict__["tap"] = tap
    network.__class__ = _with_features(type(network))
    return cast(FeatureNetwork, network)


def without_features(network: nn.Module) -> nn.Module:
    """Turn a network of :func:`build` back into torchvision's own, logits alone, in place; others stay as they are.

    What is left is plain enough for ``torch.fx``: no hook, and torchvision's own class.
    """
    if isinstance(network, _WithFeatures):
        tap = network.__dict__.pop("tap")
        for module in network.modules():
            for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, _Tap)]:
                del module._forward_hooks[key]
        tap.output = None
        network.__class__ = type(network).__bases__[1]
    return network


class _Tap:
    """A forward hook that keeps a layer's last output until it is taken; copied along with its network."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.output: torch.Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.output = output

    def take(self) -> torch.Tensor:
        output, self.output = self.output, None
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"layer {self.layer!r} gives no feature map: its output is {type(output).__name__}")
        return output


class _WithFeatures(FeatureNetwork):
    """Goes before torchvision's class in the order of resolution and asks it for the logits."""

    tap: _Tap

    def forward(self, x: torch.Tensor, features: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Compute the logits [B, classes] of normalised images float32 [B, 3, H, W]; see `FeatureNetwork`.

        A layer followed by an operation in place hands out what that leaves (for most families: after its ReLU).
        The feature map of a vision transformer is its patch tokens [B, N, F] laid out as [B, F, h, w].
        """
        logits = super().forward(x)
        feature_map = self.tap.take()
        if not features:
            return logits
        return logits, _as_map(feature_map) if hasattr(self, "patch_size") else feature_map

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty, (type(self).__bases__[1],), self.__dict__


def _with_features(network_class: type[nn.Module]) -> type[FeatureNetwork]:
    """Put `_WithFeatures` before a class of torchvision; the same class for the same class."""
    if network_class not in _made:
        name = f"{network_class.__name__}WithFeatures"
        _made[network_class] = cast(type[FeatureNetwork], type(name, (_WithFeatures, network_class), {}))
    return _made[network_class]


def _empty(network_class: type[nn.Module]) -> FeatureNetwork:
    """Make an instance without its state, for copies: pickle cannot look up a class that is made at run time."""
    made = _with_features(network_class)
    return made.__new__(made)


def _as_map(tokens: torch.Tensor) -> torch.Tensor:
    """Lay out a square image's tokens [B, 1 + h * w, F], the class token first, as [B, F, h, w]."""
    if tokens.dim() != 3:
        return tokens
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def _runs(module: nn.Module) -> bool:
    """Whether a module is called itself: lists and dicts of modules are not, so their output cannot be had."""
    return not isinstance(module, nn.ModuleList | nn.ModuleDict)


def _candidates(network: nn.Module, asked: str) -> str:
    """Names near the one that was asked for, then the coarse ones: at most two levels deep."""
    every = [key for key, module in network.named_modules() if key and _runs(module)]
    coarse = [key for key in every if key.count(".") < 1]
    blocks = [key for key in every if key.count(".") == 1 and key.rpartition(".")[2].isdigit()]
    return ", ".join(dict.fromkeys([*get_close_matches(asked, every), *coarse, *blocks][:30]))
