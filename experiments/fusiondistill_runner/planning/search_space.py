"""The candidates of a search, as pure functions of its space: how many, which, in which order. No torch, no Ray.

Every draw is a function of its address (seed, point of the grid, number of the draw, dimension), so more trials go on
where fewer ended, and a restarted search draws the same candidates.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from fusiondistill.config import Dimension
from fusiondistill.loss import idle_keys
from fusiondistill.recipe import MOMENTUM

__all__ = ["Searched", "candidate_count", "candidates", "draw", "signature", "without_effect"]

TRIES = 50
"""Draws for each wanted candidate, before a small space counts as exhausted."""

ADDRESSES = {
    "loss.kd.temperature": "loss.temperature",
    "start.merge": "fusion.method",
    "start.recalibrate": "fusion.recalibrate",
}
"""Dimensions that had another name once -> that name, which their draws keep as their address."""


class Searched(Protocol):
    """What both ``SearchConfig`` and ``SearchSpec`` have."""

    @property
    def trials(self) -> int:
        """How many candidates, or how many at each point of the grid."""

    @property
    def space(self) -> dict[str, Dimension]:
        """Dimension by name."""


def candidate_count(search: Searched) -> int:
    """How many candidates a search trains at most, without listing them.

    The recipe as it stands is always one of them. Without a grid there are ``trials``, with grids ``trials`` draws of
    the other dimensions at each point, and each point once if there is no other dimension. A candidate that comes up
    twice is trained once. So there are fewer where the space has few values, where a grid holds the recipe as it
    stands, or where values change nothing beside the others (:func:`signature`).

    Example:
        >>> space = {"loss.kd": Dimension(grid=(0, 0.1, 1)), "loss.ce": Dimension(uniform=(0, 1))}
        >>> candidate_count(SearchConfig(trials=5, space=space))
        16
    """
    sizes = [_size(dimension) for dimension in search.space.values()]
    points = math.prod(len(d.grid) for d in search.space.values() if d.grid is not None)
    if all(d.grid is None for d in search.space.values()):
        return int(min(search.trials, 1 + math.prod(sizes)))
    others = math.prod(size for d, size in zip(search.space.values(), sizes, strict=True) if d.grid is None)
    return int(1 + points * min(search.trials, others))


def _size(dimension: Dimension) -> float:
    """How many values a dimension has."""
    if dimension.integers is not None:
        return dimension.integers[1] - dimension.integers[0] + 1
    values = dimension.choice or dimension.grid
    return len(values) if values else math.inf


def candidates(search: Searched, first: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """Yield the candidates one by one, the recipe as it stands and then the draws; no two are alike.

    Args:
        search: the space and how much of it is tried.
        first: the recipe as it stands; keys outside the space tell what has an effect.
        seed: of the draws.
    """
    yield {name: first[name] for name in search.space}
    seen = {signature(first)}
    grids = {name: d.grid for name, d in search.space.items() if d.grid is not None}
    others = {name: d for name, d in search.space.items() if d.grid is None}
    wanted = 1 if not others else search.trials if grids else search.trials - 1
    for point, values in enumerate(itertools.product(*grids.values())):
        fixed, found = dict(zip(grids, values, strict=True)), 0
        for number in range(TRIES * wanted if others else 1):
            if found == wanted:
                break
            drawn = {
                name: draw(d, f"{seed}/{point}/{number}/{ADDRESSES.get(name, name)}") for name, d in others.items()
            }
            candidate = {name: {**fixed, **drawn}[name] for name in search.space}
            if (text := signature({**first, **candidate})) not in seen:
                seen.add(text)
                found += 1
                yield candidate


def draw(dimension: Dimension, address: str) -> Any:
    """A value of a dimension; the same for the same address."""
    part = random.Random(address).random()  # seeded by a hash of the text, the same everywhere
    if dimension.uniform is not None:
        low, high = dimension.uniform
        return low + (high - low) * part
    if dimension.loguniform is not None:
        low, high = dimension.loguniform
        return min(high, max(low, low * (high / low) ** part))
    if dimension.integers is not None:
        first, last = dimension.integers
        return first + int(part * (last - first + 1))
    values = dimension.choice
    assert values
    return values[int(part * len(values))]


def signature(values: Mapping[str, Any]) -> str:
    """Text by which two candidates are compared: 1 and 1.0 are the same, a tuple is a list.

    Values that change nothing beside the others (the temperature without distillation) are left out. The caller gives
    a whole recipe, since the searched keys alone may not tell which these are.
    """
    idle = without_effect(values)
    return json.dumps({name: _plain(value) for name, value in values.items() if name not in idle}, sort_keys=True)


def _idle_of_start(values: Mapping[str, Any]) -> set[str]:
    """Settings of a merged start that its merging method does not have."""
    from fusiondistill.merging import MERGING

    merge = values.get("start.merge")
    if not isinstance(merge, str) or merge not in MERGING:
        return set()
    known = {"merge", "recalibrate", "images", *MERGING[merge].parameters.model_fields}
    return {key for key in values if key.startswith("start.") and key.removeprefix("start.") not in known}


def without_effect(values: Mapping[str, Any]) -> set[str]:
    """Keys whose values change nothing, given the values of the others."""
    idle = idle_keys(values) | _idle_of_start(values)
    if values.get("optimizer.name", "sgd") not in MOMENTUM:
        idle |= {"optimizer.momentum", "optimizer.nesterov"}
    if values.get("schedule.name", "steps") != "steps":
        idle |= {"schedule.milestones", "schedule.factor"}
    idle.add("resized_crop_ratio" if values.get("resized_crop") is None else "crop_padding")
    return idle


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
