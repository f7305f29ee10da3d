"""The shares of several networks in a weighted average."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["problem_of", "shares"]

SMALLEST = 1e-3
"""The least sum of weights, as a part of the sum of their sizes: below it they cancel, and shares go to infinity."""


def problem_of(weights: Sequence[float]) -> str:
    """What is wrong with the weights of an average, as the end of a sentence about them; "" for nothing."""
    if not all(math.isfinite(weight) for weight in weights):
        return f"must be finite, got {[*weights]}"
    total, size = sum(weights), sum(map(abs, weights))
    if total <= 0:
        return f"must have a sum above 0, got {[*weights]}"
    if total < SMALLEST * size:
        least = f"{SMALLEST:g} of the sum of their sizes, {SMALLEST * size:g}"
        return f"must not cancel: their sum is {total:g}, less than {least}; got {[*weights]}"
    return ""


def shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights divided by their sum; of None the same for each.

    Raises:
        ValueError: there are more or fewer than `count`, or :func:`problem_of` names a problem.
    """
    if weights is None:
        return [1 / count] * count
    values = [float(weight) for weight in weights]
    if len(values) != count:
        raise ValueError(f"{count} state dicts need {count} weights, got {len(values)}")
    if problem := problem_of(values):
        raise ValueError(f"weights {problem}")
    return [value / sum(values) for value in values]
