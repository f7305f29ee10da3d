"""From what a config says about methods to the whole table: sections over built-ins, ``define``, ``like``, defaults.

It works on raw content, so that its rules speak up beside other mistakes of the file. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fusiondistill.methods import DEFAULT_ROWS, METHODS, form_of
from fusiondistill.protocols import PROTOCOLS
from fusiondistill.recipe import merged
from fusiondistill.recipes import RECIPES, recipe_of_data, shape_of
from fusiondistill.registry import close_to
from fusiondistill.safe_yaml import Location

__all__ = ["Table", "default_methods", "resolve", "where"]

NAME = re.compile(r"[a-z][a-z0-9_-]*")
_WHOLE = ("start", "teachers", "inference")
"""Keys whose value replaces the one below as a whole."""
_OWN = ("like", "title", "description", "checkpoint")
"""Keys that ``like`` does not inherit."""


def where(name: str, *keys: str | int) -> Location:
    """Where a config says something of a method."""
    return (name, *keys) if name in METHODS else ("define", name, *keys)


def default_methods(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The rows of a table whose config names none."""
    return (*DEFAULT_ROWS, *(name for name in _mapping(content.get("define")) if name not in METHODS))


@dataclass
class Table:
    """All methods that a config knows.

    Attributes:
        given: name -> what is said of it, by itself and by what it is like, without defaults.
        settings: name -> the same over the defaults of its recipe; what cannot be resolved is left out.
        problems: (location, text) of each ``like`` that leads nowhere.
    """

    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[tuple[Location, str]] = field(default_factory=list)

    def gives(self, name: str) -> str:
        """What networks a method gives: ``one``, ``each`` (one per degradation), ``combined`` or "" (unknown)."""
        raw = self.given.get(name)
        form = form_of(raw) if raw is not None else ""
        if form == "trained":
            return "each" if raw and raw.get("train_on") == "each" else "one"
        if form == "merged":
            return "each" if raw and raw["start"].get("recalibrate") == "per_degradation" else "one"
        return form

    def is_merged(self, name: str) -> bool:
        """Whether a method of that name is merged."""
        return form_of(self.given.get(name, {})) == "merged"


def resolve(content: Mapping[str, Any]) -> Table:
    """The table of a config.

    Args:
        content: what its file says; only the parts that concern methods are read.
    """
    table = Table()
    defined = _mapping(content.get("define"))
    told: set[object] = set()
    for name in (*METHODS, *(name for name in defined if name not in METHODS and NAME.fullmatch(name))):
        try:
            found, root = _given(name, content, defined, ())
        except _Unresolvable as error:
            if error.key not in told:
                table.problems.append((error.location, error.text))
            told.add(error.key)
        else:
            table.given[name] = {**found, "_root": root}
    roots = {name: raw.pop("_root") for name, raw in table.given.items()}
    for name, raw in table.given.items():
        table.settings[name] = _with_defaults(raw, table.given.get(roots[name], raw), content, table)
    return table


class _Unresolvable(Exception):
    """A method whose ``like`` leads nowhere; ``key`` is the same for all methods that end at the same mistake."""

    def __init__(self, location: Location, text: str, key: object) -> None:
        self.location, self.text, self.key = location, text, key


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _given(
    name: str, content: Mapping[str, Any], defined: Mapping[str, Any], below: tuple[str, ...]
) -> tuple[dict[str, Any], str]:
    """What is said of a method, and the name of the one that its chain of ``like`` ends at."""
    if name in METHODS:
        section = content.get(name)
        return _laid_over(METHODS[name], _mapping(section)), name
    own = _mapping(defined.get(name))
    like = own.get("like")
    if like is None:
        return _laid_over({}, own), name
    at = where(name, "like")
    if like in (*below, name):
        circle = [*below, name][[*below, name].index(like) :]
        text = f"goes round in a circle: {' -> '.join([*circle, like])}"
        raise _Unresolvable(where(circle[0], "like"), text, frozenset(circle))
    if like not in METHODS and like not in defined:
        known = tuple(one for one in (*METHODS, *defined) if one != name)
        raise _Unresolvable(at, f"no method {like!r}{close_to(str(like), known)}", at)
    parent, root = _given(like, content, defined, (*below, name))
    return _laid_over({key: value for key, value in parent.items() if key not in _OWN}, own), root


def _laid_over(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over settings, key by key; ``key: null`` takes a whole-valued key away, and says nothing elsewhere."""
    plain = {k: v for k, v in new.items() if k not in _WHOLE and k != "like" and v is not None}
    over: dict[str, Any] = merged(dict(old), plain)
    for key in ("train_on", "of", *_WHOLE):
        if key in new:
            over[key] = new[key]
            if new[key] is None:
                del over[key]
    return over


def _with_defaults(
    raw: Mapping[str, Any], root: Mapping[str, Any], content: Mapping[str, Any], table: Table
) -> dict[str, Any]:
    """The settings over the defaults of its recipe and of the protocol, for its shape or that of what it is like."""
    settings = {key: value for key, value in raw.items() if key != "recipe"}
    if form_of(raw) != "trained":
        return settings
    shaped = shape_of(root if form_of(root) == "trained" else raw, table.is_merged)
    chosen = raw.get("recipe") or content.get("recipe") or recipe_of_data(_mapping(content.get("data")).get("name"))
    defaults = RECIPES.get(chosen, {}).get(shaped, {}) if isinstance(chosen, str) else {}
    protocol = PROTOCOLS.get(str(content.get("protocol") or "standard"), PROTOCOLS["standard"])
    for more in (protocol.recipe, protocol.shapes.get(shaped, {})):
        defaults = merged(dict(defaults), dict(more))
    result: dict[str, Any] = merged(dict(defaults), settings)
    return result
