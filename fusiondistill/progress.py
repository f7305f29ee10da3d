"""How far a training is, and how an epoch of it is scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch

__all__ = ["Progress", "batch_mean_accuracy"]


@dataclass
class Progress:
    """The state from which training goes on after an epoch, and its metrics so far.

    Randomness needs no state: it is a function of (seed, epoch).
    """

    epoch: int = 0
    """Epochs done."""
    model: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    """The moving average of the weights, where the recipe has one."""
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """Weights of the chosen epoch: of the network, or of the average."""
    best_epoch: int = 0
    best_score: float = float("-inf")
    rows: list[dict[str, float]] = field(default_factory=list)
    """One row of metrics per epoch; accuracies are fractions, ``seconds`` wall time."""
    channels_last: bool | None = None
    """The memory layout that it began in and goes on in, on any machine; None: stored before that was noted."""


def batch_mean_accuracy(right: torch.Tensor, batch_size: int) -> Fraction:
    """The mean over batches of each batch's accuracy: a short last batch weighs as much as a full one.

    It is exact, so that no rounding decides between two epochs that are equally good.

    Args:
        right: bool [N], in the order of the batches.
        batch_size: images of each batch but the last.
    """
    parts = right.split(batch_size)
    counts = torch.stack([part.sum() for part in parts]).tolist()
    accuracies = [Fraction(count, len(part)) for count, part in zip(counts, parts, strict=True)]
    return sum(accuracies, Fraction(0)) / len(parts)
