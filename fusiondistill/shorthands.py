"""What people write for short in a config: a name for a section, one value for a list of one, ``none`` for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fusiondistill.safe_yaml import Location

__all__ = ["ambiguous", "write_out"]

_NAMED = ("data", "model")
"""Sections that a name stands for."""
_LISTS: tuple[Location, ...] = (("degradations",), ("methods",), ("plugins",), ("evaluation", "unseen"))
_SWITCHES = ("search", "sweep", "tracking", "plugins")
_NOTHING = (False, "none", "None", "no", "off")


def write_out(content: dict[str, Any]) -> None:
    """Write out, in place, what a config says for short: ``model: resnet18`` is ``model: {name: resnet18}``."""
    for name in _SWITCHES:
        if any(content.get(name) is nothing or content.get(name) == nothing != 0 for nothing in _NOTHING):
            content[name] = [] if name == "plugins" else None
    for name in _NAMED:
        if isinstance(content.get(name), str):
            content[name] = {"name": content[name]}
    for *above, key in _LISTS:
        place: Any = content
        for part in above:
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, dict) and isinstance(place.get(key), str):
            place[key] = [place[key]]
    if type(content.get("seeds")) is int and content["seeds"] == 0:
        content["seeds"] = [0]


def ambiguous(content: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    """(location, text) of what can mean two things."""
    seeds = content.get("seeds")
    if type(seeds) is int:
        several = ", ".join(map(str, range(min(seeds, 3)))) + (", ..." if seeds > 3 else "")
        more = f", [{several}] for {seeds} seeds" if seeds > 1 else ""
        yield ("seeds",), f"is a list: write [{seeds}] for the one seed {seeds}{more}"
