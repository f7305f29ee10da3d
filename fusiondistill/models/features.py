"""Features of any network: a hook on one of its layers keeps what the layer gave, beside the logits.

:func:`with_features` turns a network into a :class:`FeatureNetwork` in place. Its state dict stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import nn

from fusiondistill.models.network import FeatureNetwork

__all__ = ["LayerTaps", "find_feature_layer", "layer_names", "with_features", "without_features"]

SIDES = (32, 64, 16, 224, 128, 96, 28, 8)
"""Image sizes in pixels a side that a network is tried with, one after the other, until one suits it."""

_made: dict[type[nn.Module], type[FeatureNetwork]] = {}


def with_features(
    network: nn.Module, feature_layer: str | None = None, name: str = "the network", classes: int | None = None
) -> FeatureNetwork:
    """Make a network hand out a feature map, in place.

    Args:
        network: maps normalised images, float32 [B,3,H,W], to logits, float32 [B,classes].
        feature_layer: the dotted name of the module whose output is the feature map; None: found by
            :func:`find_feature_layer`.
        name: of the network, for messages.
        classes: how many logits there must be, where the layer has to be found; None: that is not looked at.

    Returns:
        The same object: ``network(x, features=True)`` now gives (logits, feature map).

    Raises:
        ValueError: there is no such layer (the message has candidates), or none can be found.
    """
    if feature_layer is None:
        feature_layer = find_feature_layer(network, name, classes)
    modules = {key: module for key, module in network.named_modules() if _runs(module)}
    if feature_layer not in modules or not feature_layer:
        candidates = layer_names(network, feature_layer)
        raise ValueError(f"{name} has no feature layer {feature_layer!r}; candidates: {candidates}")
    tap = _Tap(feature_layer)
    modules[feature_layer].register_forward_hook(tap)
    network.__dict__["tap"] = tap
    network.__class__ = _with_features(type(network))
    return cast(FeatureNetwork, network)


def without_features(network: nn.Module) -> nn.Module:
    """Undo :func:`with_features` in place: logits alone; other networks stay as they are.

    What is left is plain enough for ``torch.fx``: no hook of ours, and the network's own class.
    """
    if isinstance(network, _WithFeatures):
        tap = network.__dict__.pop("tap")
        for module in network.modules():
            for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, _Tap)]:
                del module._forward_hooks[key]
        tap.output = None
        network.__class__ = type(network).__bases__[1]
    return network


def find_feature_layer(network: nn.Module, name: str = "the network", classes: int | None = None) -> str:
    """The last layer that gives a feature map: [B,F,h,w] of more than one pixel, adaptive pooling left out.

    Two black images go through the network in eval mode, of the first size of :data:`SIDES` that it takes. Its weights,
    its statistics and torch's generator stay as they are.

    Raises:
        ValueError: it takes none of these sizes, no layer gives such a map, or its output is not [B, ``classes``].
    """
    asked = "give feature_layer, the dotted name of the module whose output is [B,F,h,w]"
    problem = ""
    for side in SIDES:
        try:
            maps, output = _maps(network, side)
        except Exception as error:  # a user's network may raise anything at a size that does not suit it
            problem = problem or f"with images of {side}x{side} pixels: {type(error).__name__}: {error}"
            continue
        if classes is not None and not (isinstance(output, torch.Tensor) and output.shape == (2, classes)):
            shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ValueError(f"{name} must give logits [2, {classes}] of 2 images and {classes} classes, not {shape}")
        if maps:
            return maps[-1]
        raise ValueError(f"no layer of {name} gives a feature map: {asked}; candidates: {layer_names(network)}")
    raise ValueError(f"the feature layer of {name} cannot be found ({problem}): {asked}")


def _maps(network: nn.Module, side: int) -> tuple[list[str], Any]:
    """The layers that give a map, in the order in which they are done, and what the network gives."""
    found: list[str] = []

    def note(key: str, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(key)

    pooling = nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d
    layers = {k: m for k, m in network.named_modules() if k and _runs(m) and not isinstance(m, pooling)}
    hooks = [m.register_forward_hook(lambda _, __, output, key=k: note(key, output)) for k, m in layers.items()]
    first = next(network.parameters(), None)
    try:
        with _as_it_is(network):
            output = network(torch.zeros(2, 3, side, side, device=None if first is None else first.device))
    finally:
        for hook in hooks:
            hook.remove()
    return found, output


@contextmanager
def _as_it_is(network: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients in the block; modes and torch's generator as before after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class LayerTaps:
    """Keeps the outputs of some layers of a network from each forward pass until they are taken.

    Args:
        network: any network; it gets a forward hook on each of the layers, until :meth:`remove`.
        layers: dotted names of its modules; none: nothing is hooked.

    Raises:
        ValueError: there is no such layer (the message has candidates).

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
        >>> taps = LayerTaps(network, ["1"])
        >>> _ = network(torch.zeros(2, 3, 8, 8))
        >>> {name: output.shape for name, output in taps.take().items()}
        {'1': torch.Size([2, 4, 6, 6])}
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        modules = {key: module for key, module in network.named_modules() if key and _runs(module)}
        if missing := [layer for layer in layers if layer not in modules]:
            candidates = layer_names(network, missing[0])
            raise ValueError(f"the network has no layer {missing[0]!r}; candidates: {candidates}")
        self._taps = {layer: _Tap(layer) for layer in layers}
        self._handles = [modules[layer].register_forward_hook(tap) for layer, tap in self._taps.items()]

    def take(self) -> dict[str, torch.Tensor] | None:
        """Layer -> its output in the last forward pass, float [B, ...]; None where there are no layers."""
        return {layer: tap.take() for layer, tap in self._taps.items()} or None

    def put(self, outputs: Mapping[str, torch.Tensor]) -> None:
        """Keep these outputs in place of those of the last forward pass."""
        for layer, output in outputs.items():
            self._taps[layer].output = output

    def remove(self) -> None:
        """Take the hooks off, and forget what they kept."""
        for handle, tap in zip(self._handles, self._taps.values(), strict=True):
            handle.remove()
            tap.output = None


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
    """Goes before a network's own class in the order of resolution and asks that for the logits."""

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
        first = getattr(self, "num_prefix_tokens", None)  # timm's transformers say how many tokens are no patches
        return logits, _as_map(feature_map, self.tap.layer, x.shape[2] / x.shape[3], first)

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty, (type(self).__bases__[1],), self.__dict__


class _WithOwnFeatures(_WithFeatures):
    """For a network that has its own method ``forward_features``, like timm's: its ``forward`` gets that one."""

    def forward(self, x: torch.Tensor, features: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`_WithFeatures.forward`."""
        self.__dict__["inside"] = True
        try:
            return super().forward(x, features)
        finally:
            self.__dict__["inside"] = False

    def forward_features(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Of ``FeatureNetwork``; within ``forward`` the network's own."""
        if self.__dict__.get("inside"):
            return super(FeatureNetwork, self).forward_features(x, *args, **kwargs)  # type: ignore[misc]
        return super().forward_features(x)


def _with_features(network_class: type[nn.Module]) -> type[FeatureNetwork]:
    """Put `_WithFeatures` before a network's class; the same class for the same class."""
    if network_class not in _made:
        name = f"{network_class.__name__}WithFeatures"
        mixin = _WithOwnFeatures if hasattr(network_class, "forward_features") else _WithFeatures
        _made[network_class] = cast(type[FeatureNetwork], type(name, (mixin, network_class), {}))
    return _made[network_class]


def _empty(network_class: type[nn.Module]) -> FeatureNetwork:
    """Make an instance without its state, for copies: pickle cannot look up a class that is made at run time."""
    made = _with_features(network_class)
    return made.__new__(made)


def _as_map(output: torch.Tensor, layer: str, ratio: float = 1.0, first: int | None = None) -> torch.Tensor:
    """A map [B,F,h,w] as it is; tokens [B,first+h*w,F] as [B,F,h,w].

    Args:
        ratio: height by width of the images, and so of the patches.
        first: tokens that are no patches, like a class token; None: one or none.
    """
    if output.dim() == 4:
        return output
    if output.dim() == 3:
        for skipped in (0, 1) if not isinstance(first, int) else (first,):
            count = output.shape[1] - skipped
            height = round((max(count, 0) * ratio) ** 0.5)
            if height > 0 and count % height == 0 and round(height / ratio) == count // height:
                return output[:, skipped:].transpose(1, 2).unflatten(2, (height, count // height))
    raise ValueError(f"layer {layer!r} gives no feature map [B,F,h,w]: its output is {list(output.shape)}")


def _runs(module: nn.Module) -> bool:
    """Whether a module is called itself: lists and dicts of modules are not, so their output cannot be had."""
    return not isinstance(module, nn.ModuleList | nn.ModuleDict)


def layer_names(network: nn.Module, asked: str = "") -> str:
    """Names near the one that was asked for, then the coarse ones: at most two levels deep."""
    every = [key for key, module in network.named_modules() if key and _runs(module)]
    coarse = [key for key in every if key.count(".") < 1]
    blocks = [key for key in every if key.count(".") == 1 and key.rpartition(".")[2].isdigit()]
    return ", ".join(dict.fromkeys([*get_close_matches(asked, every), *coarse, *blocks][:30]))
