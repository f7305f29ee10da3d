"""Short forms in a config: a name for a section, one value for a list of one, ``none`` for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fusiondistill.degradations import DEGRADATIONS, PAPER_DEGRADATIONS
from fusiondistill.methods import METHODS
from fusiondistill.safe_yaml import Location, mapping

__all__ = ["ambiguous", "write_out"]

_NAMED = ("data", "model")
"""Sections that a name stands for."""
_NAMED_OF_ROWS = ("optimizer", "schedule")
_LISTS: tuple[Location, ...] = (("degradations",), ("methods",), ("plugins",), ("evaluation", "unseen"))
_SWITCHES: tuple[Location, ...] = (
    ("search",), ("sweep",), ("tracking",), ("plugins",), ("recipe",), ("evaluation", "unseen"),
    ("evaluation", "corruptions"), *((row, "checkpoint") for row in METHODS),
)  # fmt: skip
"""What can be switched off."""
_EMPTY: dict[Location, Any] = {("plugins",): [], ("evaluation", "unseen"): []}
_NOTHING = ("none", "null", "no", "off", "false")
_RANGE = re.compile(r"\s*(\d+)\s*\.\.\s*(\d+)\s*")
_MOST_SEEDS = 1000


def write_out(content: dict[str, Any]) -> None:
    """Write out, in place, the short forms of a config: ``model: resnet18`` is ``model: {name: resnet18}``."""
    for location in _SWITCHES:
        place, key = _place(content, location)
        value = place.get(key)
        if value is False or (isinstance(value, str) and value.strip().lower() in _NOTHING):
            place[key] = _EMPTY.get(location)
    rows = [content.get(name) for name in METHODS]
    rows += mapping(content.get("define")).values()
    for section, names in ((content, _NAMED), *((row, _NAMED_OF_ROWS) for row in rows)):
        for name in names:
            if isinstance(section, dict) and isinstance(section.get(name), str):
                section[name] = {"name": section[name]}
    evaluation = mapping(content.get("evaluation"))
    if evaluation.get("unseen") is True:
        evaluation["unseen"] = _not_trained_for(content.get("degradations"))
    for row in rows:
        if isinstance(row, dict) and type(share := row.get("resized_crop")) in (int, float):
            row["resized_crop"] = [share, 1.0]
    for location in _LISTS:
        place, key = _place(content, location)
        if isinstance(place.get(key), str):
            place[key] = [one.strip() for one in place[key].split(",")]
    if content.get("methods") in ("all", ["all"]) and "all" not in mapping(content.get("define")):
        content["methods"] = None  # what a table has by default
    search = content.get("search")
    for one in search if isinstance(search, list) else [search]:
        if isinstance(one, dict) and isinstance(one.get("space"), dict):
            one["space"] = _dotted(one["space"])
    content.update({"seeds": seeds} if (seeds := _seeds(content.get("seeds"))) is not None else {})


def _not_trained_for(given: Any) -> list[str]:
    """Every shipped degradation that is not among those that a config trains for."""
    listed = [one.strip() for one in given.split(",")] if isinstance(given, str) else given or PAPER_DEGRADATIONS
    items = listed if isinstance(listed, list | tuple) else ()
    trained = [one.get("name") if isinstance(one, dict) else one for one in items]
    return [name for name in DEGRADATIONS.builtin if name not in trained]


def _dotted(space: dict[Any, Any]) -> dict[Any, Any]:
    """Dimensions by dotted keys, also those that stand below one another: ``{loss: {kd: {uniform: [0, 1]}}}``."""
    found: dict[Any, Any] = {}
    for key, value in space.items():
        below = {k: v for k, v in value.items() if isinstance(v, dict)} if isinstance(value, dict) else {}
        if not below or len(below) < len(value):
            found[key] = {k: v for k, v in value.items() if k not in below} if below else value
        found |= {f"{key}.{name}": one for name, one in _dotted(below).items()}
    return found


def _place(content: dict[str, Any], location: Location) -> tuple[dict[Any, Any], str | int]:
    """The mapping that holds a key (an empty one where there is none), and the key."""
    *above, key = location
    place: Any = content
    for part in above:
        place = place.get(part) if isinstance(place, dict) else None
    return (place if isinstance(place, dict) else {}), key


def _seeds(given: Any) -> list[int] | None:
    """The list that ``0``, ``0..4`` (both ends included) or ``0, 1, 2`` stands for; None for anything else."""
    if type(given) is int and given == 0:
        return [0]
    if not isinstance(given, str):
        return None
    if found := _RANGE.fullmatch(given):
        low, high = (int(end) for end in found.groups())
        return list(range(low, high + 1)) if 0 <= high - low < _MOST_SEEDS else None
    parts = given.split(",")
    return [int(part) for part in parts] if len(parts) > 1 and all(p.strip().isdecimal() for p in parts) else None


def ambiguous(content: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    """(location, text) of what can mean two things, or nothing."""
    seeds, search = content.get("seeds", []), content.get("search")
    if type(seeds) is int:
        several = ", ".join(map(str, range(min(seeds, 3)))) + (", ..." if seeds > 3 else "")
        more = f", [{several}] for {seeds} seeds" if seeds > 1 else ""
        yield ("seeds",), f"is a list: write [{seeds}] for the one seed {seeds}{more}"
    elif not isinstance(seeds, list):
        yield ("seeds",), f"must be a list of whole numbers, like [0, 1, 2] or 0..4, not {seeds!r}"
    if search not in (None, "") and not isinstance(search, dict | list):
        example = "{space: {loss.kd: {loguniform: [0.1, 10]}}}"
        yield ("search",), f"must be a mapping with a space, like {example}, or none, not {search!r}"
