"""The mean of the networks' probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fusiondistill.inference import INFERENCE

if TYPE_CHECKING:
    from torch import nn

__all__ = ["soft_vote"]


@INFERENCE.register(
    "soft_vote", gives="log-probabilities", source="Lakshminarayanan et al. 2017, Deep Ensembles, arXiv:1612.01474"
)
def soft_vote(classifiers: Mapping[str, nn.Module]) -> nn.Module:
    """The mean of the networks' softmax probabilities."""
    from fusiondistill.models import SoftVote

    return SoftVote(list(classifiers.values()))
