"""Which levels of a degradation are evaluated, which are shown, and how they are cut into pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = ["SEVERITIES", "cut", "every", "spread"]

SEVERITIES = (1, 2, 3, 4, 5)
"""The levels of a published corruption set."""


def every(levels: Sequence[int], step: int) -> tuple[int, ...]:
    """Every ``step``-th level and the last one, so that each level left out lies between two evaluated ones."""
    return tuple(dict.fromkeys([*levels[::step], levels[-1]]))


def spread(levels: tuple[int, ...], count: int) -> tuple[int, ...]:
    """``count`` of the levels, evenly spread, with the first and the last; all levels where there are no more."""
    count = min(count, len(levels))
    return tuple(levels[round(i * (len(levels) - 1) / max(1, count - 1))] for i in range(count))


def cut(levels: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    """The levels in ``parts`` pieces of neighbours (at most one for each level), as equal in size as they can be."""
    parts = max(1, min(parts, len(levels)))
    ends = [len(levels) * i // parts for i in range(parts + 1)]
    return [levels[a:b] for a, b in itertools.pairwise(ends)]
