"""Prepares a classifier for fast inference: BatchNorm folded away, channels last, pieces that fit the cache."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fusiondistill.models.classifier import ImageClassifier
from fusiondistill.models.network import FeatureNetwork
from fusiondistill.models.whole import together
from fusiondistill.precision import AUTOCAST, autocast

__all__ = ["InferenceClassifier", "for_inference", "piece_of"]

_PIECE_PIXELS = 2**15  # 32 images of 32x32: a ResNet-56's activations stay in the second-level cache


class InferenceClassifier(ImageClassifier):
    """The fast copy that :func:`for_inference` makes of an :class:`ImageClassifier`; it gives no feature map.

    On a CPU every forward pass has the same number of images, :meth:`piece`, the last one padded. oneDNN chooses its
    kernels by the shape of a batch, and kernels round differently; so an image's logits do not depend on its batch.
    """

    def __init__(self, model: ImageClassifier, network: nn.Module, precision: str) -> None:
        mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
        super().__init__(cast(FeatureNetwork, network), mean, std, model.classes, model.preparation)
        self.mean, self.std = model.mean.clone(), model.std.clone()  # on the model's device
        self.precision, self.splits = precision, model.splits

    def piece(self, height: int, width: int) -> int | None:
        """Images of a forward pass on a CPU, a power of 2 from 8 to 64; None: all that it is given, as on a GPU."""
        if self.mean.device.type != "cpu" or not self.splits:
            return None
        most = max(8, min(64, _PIECE_PIXELS // (height * width)))
        return 1 << (most.bit_length() - 1)

    def forward(self, images: torch.Tensor, features: bool = False) -> torch.Tensor:
        """Classify uint8 images [B,3,H,W], 0..255; returns logits float32 [B,C], for each precision.

        Raises:
            TypeError, ValueError: as :class:`ImageClassifier`; or features are asked for.
        """
        self.check(images)
        if features:
            raise TypeError("a classifier for inference turns images into logits alone")
        size = self.piece(*images.shape[2:])
        with autocast(self.precision, images.device):
            if size is None or not len(images):
                return self._logits(images)
            return torch.cat([self._logits(_padded(part, size))[: len(part)] for part in images.split(size)])

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.to(torch.float32, memory_format=torch.channels_last)
        return self.network(pixels.sub_(self.mean).div_(self.std)).float()


def for_inference(model: nn.Module, *, precision: str = "fp32") -> nn.Module:
    """Copy a classifier for speed: in eval mode, each BatchNorm folded into the convolution before it, channels last.

    A BatchNorm stays where it follows no convolution, or one that other layers read, too; all stay if ``torch.fx``
    cannot trace the network. The logits differ from the model's by rounding (about 1e-6 of their size).

    Args:
        model: an :class:`ImageClassifier`, or a module made of several, such as an ensemble; not changed.
        precision: ``fp32``; ``bf16`` or ``fp16``: the forward pass runs under ``torch.autocast``, which changes a few
            answers in a thousand (``fp16`` on a CPU is slower than ``fp32`` by far).

    Returns:
        An :class:`InferenceClassifier`, or a copy of the module that holds such: uint8 [B,3,H,W] -> float32 [B,C].

    Raises:
        ValueError: unknown precision.
        TypeError: there is no ImageClassifier in it.

    Example:
        >>> fast = for_inference(load_model("runs/mine/base-0123456789abcdef"), precision="bf16")
        >>> predictions = fast(images).argmax(1)
    """
    if precision not in AUTOCAST:
        raise ValueError(f"unknown precision {precision!r}: choose from {', '.join(AUTOCAST)}")
    if not isinstance(model, ImageClassifier):
        parts = [part for part in model.modules() if isinstance(part, ImageClassifier)]
        if not parts:
            raise TypeError(f"only an ImageClassifier or what is made of some is prepared, not {type(model).__name__}")
        made = {id(part): for_inference(part, precision=precision) for part in parts}
        return copy.deepcopy(model, made).eval()  # with the prepared parts instead of copies
    network = _folded(copy.deepcopy(model.network).eval()).to(memory_format=torch.channels_last)
    return InferenceClassifier(model, network, precision).eval()


def piece_of(model: nn.Module, height: int, width: int) -> int:
    """A batch of the model should hold a multiple of this many images of this size; 1: any number.

    Where a model looks at several images together, other batches would give other answers.
    """
    parts = (part for part in model.modules() if isinstance(part, InferenceClassifier))
    return max((part.piece(height, width) or 1 for part in parts), default=1) * together(model)


def _padded(images: torch.Tensor, size: int) -> torch.Tensor:
    """Fill a batch up to `size` images with copies of its first."""
    missing = size - len(images)
    return torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images


class _Logits(nn.Module):
    """A network without the argument ``features``, so that it can be traced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def _folded(network: nn.Module) -> nn.Module:
    """The network with BatchNorms folded into convolutions where possible; may change and reuse it."""
    from fusiondistill.models.features import without_features

    network = without_features(network)
    try:
        traced = fx.symbolic_trace(_Logits(network))
    except Exception:  # a forward method may raise anything on a proxy
        return network
    modules: dict[str, nn.Module] = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    folded = 0
    for norm in list(traced.graph.nodes):
        convolution = _convolution_before(norm, modules, calls)
        if convolution is None:
            continue
        layers = cast(nn.Conv2d, modules[convolution.target]), cast(nn.BatchNorm2d, modules[norm.target])
        fused = fuse_conv_bn_eval(*layers)
        traced.set_submodule(convolution.target, fused)
        norm.replace_all_uses_with(convolution)
        traced.graph.erase_node(norm)
        folded += 1
    if not folded:
        return network
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
    return traced


def _convolution_before(node: fx.Node, modules: dict[str, nn.Module], calls: Counter[Any]) -> Any:
    """The convolution that only this BatchNorm reads; None if the node is no BatchNorm or either is called twice."""
    before = node.args[0] if node.args else None
    if not isinstance(before, fx.Node) or len(before.users) > 1:
        return None
    for one, kind in ((node, nn.BatchNorm2d), (before, nn.Conv2d)):
        if one.op != "call_module" or calls[one.target] > 1:
            return None
        module = modules[str(one.target)]
        if type(module) is not kind or module._forward_hooks or module._forward_pre_hooks:
            return None
    return before if modules[str(node.target)].running_mean is not None else None
