"""A sweep: lists of values for keys of a config, crossed into one experiment for each point."""

from __future__ import annotations

import copy
import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusiondistill.loss import merged_loss

__all__ = ["Known", "Point", "crossed", "problems", "values_of"]

WHOLE = ("start", "teachers", "inference", "schedule")
"""Keys of a method whose value replaces the one below as a whole."""
MOST = 10_000
"""The most points of a sweep; more are taken for a slip in the lists."""

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
    """One experiment of a sweep: its label, its content, and the keys that the sweep has set."""

    label: str
    content: dict[str, Any]
    axes: Mapping[tuple[str, ...], str]
    """Location in the content -> the axis that set it."""


@dataclass(frozen=True)
class Known:
    """The first parts of keys that a sweep may name.

    Attributes:
        keys: sections of a config and built-in methods.
        defined: methods that the config defines: their keys lie below ``define``.
    """

    keys: tuple[str, ...]
    defined: tuple[str, ...] = ()

    def location(self, axis: str) -> tuple[str, ...]:
        """Where a dotted key leads in a config's content; () for the name of a bundle."""
        parts = tuple(axis.split("."))
        if parts[0] in self.defined:
            return ("define", *parts)
        return parts if parts[0] in self.keys else ()


def values_of(values: Any) -> list[Any]:
    """The values of an axis, which may be a mapping of names to bundles."""
    return list(values.values()) if isinstance(values, Mapping) else list(values)


def problems(content: Mapping[str, Any], known: Known) -> Iterable[tuple[str | None, str]]:
    """The mistakes in the raw ``sweep`` of a config's content: (axis, or None for the whole, message)."""
    sweep = content["sweep"]
    if not isinstance(sweep, dict) or not sweep:
        yield None, "must be a mapping of keys to lists of values, like model.name: [cifar_resnet20, cifar_resnet56]"
        return
    count = 1
    for axis, values in sweep.items():
        text = _problem_of_axis(str(axis), values, known)
        if str(axis).startswith("search.") and isinstance(content.get("search"), list):
            text = "search is a list: sweep it as a whole, or sweep bundles under your own name"
        if text:
            yield axis, text
        count *= len(values) if isinstance(values, list | dict) else 1
    if count > MOST:
        yield None, f"{count:,} points; at most {MOST:,} make a sweep"


def _problem_of_axis(axis: str, values: Any, known: Known) -> str | None:
    first, location = axis.split(".")[0], known.location(axis)
    if first in _SHARED:
        return f"{first} {_SHARED[first]}"
    if not isinstance(values, list | dict) or not values:
        return "must be a list of at least one value"
    if isinstance(values, dict) and location:
        return "must be a list of values; a mapping of names is for bundles of several keys under your own name"
    listed = values_of(values)
    if not location and not all(isinstance(value, dict) for value in listed):
        close = difflib.get_close_matches(first, (*known.keys, *known.defined), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join((*known.keys, *known.defined))}"
        return f"is no key of the config ({hint}); under your own name give mappings of several keys"
    if repeated := [value for i, value in enumerate(listed) if value in listed[:i]]:
        return f"given twice: {repeated[0]}"
    if not location:
        for value in listed:
            firsts = {str(key).split(".")[0]: key for key in value}
            if bad := [one for one in firsts if one in _SHARED]:
                return f"{bad[0]} {_SHARED[bad[0]]}"
    return None


def crossed(content: Mapping[str, Any], known: Known) -> list[Point]:
    """Every point of a config whose ``sweep`` has no mistakes, in the order of its lists, the last one varying fastest.

    An axis may be a dotted key, with values; a section, with mappings that are laid over the section; or any other
    name, with bundles. A bundle is a mapping that is laid over the whole config, to change several keys together. The
    bundles are a list, or a mapping from the names that tables show. Keys of a bundle may have dots, too.
    """
    sweep: Mapping[str, Any] = content["sweep"]
    rest = {key: value for key, value in content.items() if key != "sweep"}
    name = content.get("experiment")
    named = [
        list(values.items()) if isinstance(values, Mapping) else [(v, v) for v in values] for values in sweep.values()
    ]
    combined = list(itertools.product(*named))
    points = []
    labels = _labels([[label for label, _ in one] for one in combined], len(str(name)))
    for label, values in zip(labels, combined, strict=True):
        point = copy.deepcopy(rest)
        axes: dict[tuple[str, ...], str] = {}
        for axis, (_, value) in zip(sweep, values, strict=True):
            location = known.location(axis)
            if location:
                point = _laid_at(point, location, copy.deepcopy(value))
                axes[location] = axis
            for key, one in () if location else value.items():
                place = known.location(str(key)) or (str(key),)
                point = _laid_at(point, place, copy.deepcopy(one))
                axes[place] = axis
        if name is not None:  # the config's own check reports a missing name
            point["experiment"] = f"{name}.{label}"
        points.append(Point(label, point, axes))
    return points


def _laid_at(content: dict[str, Any], location: Sequence[str], value: Any) -> dict[str, Any]:
    """The content with a value laid over what is at a location, which is made where it is missing."""
    first, *rest = location
    old = content.get(first)
    if not rest or first == "loss":
        new = nested(rest, value)
        return {**content, first: new if first in WHOLE else _over(first)(old, new)}
    return {**content, first: _laid_at(old if isinstance(old, dict) else {}, rest, value)}


def _laid_over(old: Any, new: Any) -> Any:
    """Merge mappings at every depth, a loss term by term; a key of :data:`WHOLE` and any other value replaces."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: value if key in WHOLE else _over(key)(old.get(key), value) for key, value in new.items()}}


def _over(key: str) -> Callable[[Any, Any], Any]:
    return merged_loss if key == "loss" else _laid_over


def nested(location: Sequence[str], value: Any) -> Any:
    """A value below keys: ``nested(("loss", "kd"), 1)`` is ``{"loss": {"kd": 1}}``."""
    for part in reversed(location):
        value = {part: value}
    return value


def _labels(points: Sequence[Sequence[Any]], taken: int) -> list[str]:
    """The values in which the points differ, as file names; numbers where these would be too long or not unique."""
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
