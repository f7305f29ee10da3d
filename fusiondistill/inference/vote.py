"""The paper's ensemble: the networks vote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fusiondistill.inference import INFERENCE

if TYPE_CHECKING:
    from torch import nn

__all__ = ["vote"]


@INFERENCE.register("vote", gives="votes", source="FusionDistill, its Ensemble")
def vote(classifiers: Mapping[str, nn.Module]) -> nn.Module:
    """The plurality of the networks' classes, a tie broken by their summed logits."""
    from fusiondistill.models import Ensemble

    return Ensemble(list(classifiers.values()))
