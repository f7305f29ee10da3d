"""Which levels of a degradation are evaluated, which are shown, and how they are cut into pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = ["SEVERITIES", "cut", "every", "spread"]

SEVERITIES = (1, 2, 3, 4, 5)
"""The levels of a published corruption set."""


def every(levels: Sequence[int], step: int) -> tuple[int, ...]:
    """Every so many levels and the last, so that every level left out lies between two measured ones."""
    return tuple(dict.fromkeys([*levels[::step], levels[-1]]))


def spread(levels: tuple[int, ...], count: int) -> tuple[int, ...]:
    """So many of the levels, evenly spread, the first and the last among them; all where there are no more."""
    count = min(count, len(levels))
    return tuple(levels[round(i * (len(levels) - 1) / max(1, count - 1))] for i in range(count))


def cut(levels: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    """Neighbouring levels in so many parts (at most one level each) whose sizes differ by one at most."""
    parts = max(1, min(parts, len(levels)))
    ends = [len(levels) * i // parts for i in range(parts + 1)]
    return [levels[a:b] for a, b in itertools.pairwise(ends)]
