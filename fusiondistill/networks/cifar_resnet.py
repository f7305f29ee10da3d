"""The names of the CIFAR ResNets: ``cifar_resnet<depth>``; the network itself is in `fusiondistill.models`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fusiondistill.networks import NETWORKS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DEEPEST", "cifar_resnet", "depth_problem"]

DEEPEST = 1202
"""The deepest of the original paper; far deeper ones would fill any memory."""

_NAME = re.compile(r"cifar_resnet(\d+)", re.ASCII)


def depth_problem(depth: int) -> str | None:
    """What is wrong with a depth, with the nearest that exist; None: it is 6n + 2 layers for n = 1, 2, ..., 200."""
    if 8 <= depth <= DEEPEST and depth % 6 == 2:
        return None
    below = depth - (depth - 2) % 6
    nearest = "8" if depth < 8 else str(DEEPEST) if depth > DEEPEST else f"{below} or {below + 6}"
    return f"a CIFAR ResNet has 6n+2 layers (8, 14, 20, ..., 56, 110, ..., {DEEPEST}), not {depth}; nearest: {nearest}"


def names() -> tuple[str, ...]:
    """Some of the names; see :func:`provides` for the rule."""
    return tuple(f"cifar_resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110))


def provides(name: str) -> bool | str:
    """Whether a name is that of a CIFAR ResNet, or what is wrong with its depth."""
    match = _NAME.fullmatch(name)
    return match is not None and (depth_problem(int(match[1][:9])) or True)


@NETWORKS.register("cifar_resnet", names=names, provides=provides, source="He et al. 2015, arXiv:1512.03385, 4.2")
def cifar_resnet(name: str, classes: int, *, feature_layer: str | None = None) -> nn.Module:
    """cifar_resnet<6n+2>: the ResNets of the paper, for images from 8 x 8 pixels."""
    from fusiondistill.models.cifar_resnet import CifarResNet

    match = _NAME.fullmatch(name)
    assert match
    return CifarResNet(int(match[1]), classes, feature_layer=feature_layer or "stage3")
