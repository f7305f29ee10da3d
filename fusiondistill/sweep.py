"""A sweep: lists of values for keys of a config, crossed into one experiment for each point."""

from __future__ import annotations

import copy
import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusiondistill.loss import merged_loss

__all__ = ["Point", "crossed", "problems"]

MOST = 10_000
"""Points of a sweep; beyond that a slip in the lists is likelier than a wish."""

_SHARED = {
    "experiment": "names the whole sweep",
    "sweep": "cannot sweep itself",
    "resources": "is shared by all points: they run on the same workers",
    "plugins": "is shared by all points",
    "seeds": "is a list already: give it outside the sweep, every point has all seeds",
    "methods": "is a list already: give it outside the sweep, every point has all methods",
}


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep: what tells it from the others, its content, and which keys the sweep laid in."""

    label: str
    content: dict[str, Any]
    axes: Mapping[tuple[str, ...], str]
    """Location in the content -> the axis that put it there."""


def problems(sweep: Any, known: Sequence[str]) -> Iterable[tuple[str | None, str]]:
    """(axis or None, what is wrong) of the raw content of ``sweep``.

    Args:
        sweep: what the file says.
        known: the top-level keys of a config.
    """
    if not isinstance(sweep, dict) or not sweep:
        yield None, "must be a mapping of keys to lists of values, like model.name: [cifar_resnet20, cifar_resnet56]"
        return
    count = 1
    for axis, values in sweep.items():
        first = str(axis).split(".")[0]
        if first in _SHARED:
            yield axis, f"{first} {_SHARED[first]}"
        elif not isinstance(values, list) or not values:
            yield axis, "must be a list of at least one value"
        elif first not in known and not all(isinstance(value, dict) for value in values):
            close = difflib.get_close_matches(first, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            yield axis, f"is no key of the config ({hint}); under a name of your own give mappings of several keys"
        elif repeated := [value for i, value in enumerate(values) if value in values[:i]]:
            yield axis, f"given twice: {repeated[0]}"
        else:
            for value in values:
                if first not in known and (bad := [k for k in value if k in _SHARED]):
                    yield axis, f"{bad[0]} {_SHARED[bad[0]]}"
        count *= len(values) if isinstance(values, list) else 1
    if count > MOST:
        yield None, f"{count:,} points; at most {MOST:,} make a sweep"


def crossed(content: Mapping[str, Any], known: Sequence[str]) -> list[Point]:
    """Every point of a config with a faultless ``sweep``, in the order of its lists, the last one varying fastest.

    A key with dots is that key; the name of a section takes mappings that are laid over the section; any other name
    takes mappings that are laid over the whole config, to change several keys together.
    """
    sweep: Mapping[str, Sequence[Any]] = content["sweep"]
    rest = {key: value for key, value in content.items() if key != "sweep"}
    name = content.get("experiment")
    combined = list(itertools.product(*sweep.values()))
    points = []
    for label, values in zip(_labels(combined, len(str(name))), combined, strict=True):
        point = copy.deepcopy(rest)
        axes: dict[tuple[str, ...], str] = {}
        for axis, value in zip(sweep, values, strict=True):
            location = tuple(axis.split(".")) if axis.split(".")[0] in known else ()
            point = _laid_over(point, nested(location, copy.deepcopy(value)))
            axes[location] = axis
        if name is not None:  # what is missing is for the config's own check to say
            point["experiment"] = f"{name}.{label}"
        points.append(Point(label, point, axes))
    return points


def _laid_over(old: Any, new: Any) -> Any:
    """Mappings are merged at every depth, a loss term by term; whatever else is new replaces the old."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    over = {"loss": merged_loss}
    return {**old, **{key: over.get(key, _laid_over)(old.get(key), value) for key, value in new.items()}}


def nested(location: Sequence[str], value: Any) -> Any:
    """A value below keys: ``nested(("loss", "kd"), 1)`` is ``{"loss": {"kd": 1}}``."""
    for part in reversed(location):
        value = {part: value}
    return value


def _labels(points: Sequence[Sequence[Any]], taken: int) -> list[str]:
    """What the points differ in, as file names; numbers where that would be too long or not unique."""
    varying = [i for i in range(len(points[0])) if any(point[i] != points[0][i] for point in points)] or [0]
    labels = ["-".join(_slug(point[i]) for i in varying) for point in points]
    if len(set(labels)) == len(labels) and all(0 < len(label) <= 63 - taken for label in labels):
        return labels
    digits = 1 + int(math.log10(max(1, len(points) - 1)))
    return [f"{i:0{digits}}" for i in range(len(points))]


def _slug(value: Any) -> str:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return "_".join(_slug(one) for one in value)
    return re.sub(r"[^A-Za-z0-9_.]+", "-", str(value)).strip("-.")
