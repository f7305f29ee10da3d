"""Each image is answered by its own degradation's network: the Oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fusiondistill.inference import INFERENCE

if TYPE_CHECKING:
    from torch import nn

__all__ = ["own"]


@INFERENCE.register("own", told=True, alone=True, source="FusionDistill, its Oracle")
def own(classifiers: Mapping[str, nn.Module]) -> nn.Module:
    """The network of the image's own degradation, which it is told."""
    if len(classifiers) != 1:
        raise ValueError(f"own takes the network of one degradation, not {len(classifiers)}: {', '.join(classifiers)}")
    return next(iter(classifiers.values()))
