"""From what a config says about methods to the whole table: sections over built-ins, ``define``, ``like``, defaults.

It works on raw content, so that its rules speak up beside other mistakes of the file. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from fusiondistill.degradation_config import ids_in
from fusiondistill.degradations import PAPER_DEGRADATIONS
from fusiondistill.methods import BASE, DEFAULT_ROWS, METHODS, SEARCHED, Combined, Merged, Trained, form_of
from fusiondistill.protocols import PROTOCOLS
from fusiondistill.recipe import Precision, Recipe, merged
from fusiondistill.recipes import PRETRAINED, RECIPES, recipe_of_data, shape_of
from fusiondistill.registry import close_to
from fusiondistill.safe_yaml import Location, mapping

__all__ = ["Table", "default_methods", "resolve", "where"]

NAME = re.compile(r"[a-z][a-z0-9_-]*")
_WHOLE = ("start", "teachers", "inference")
"""Keys whose value replaces the one below as a whole, and whose null takes it away."""
_NULL = ("cutout", "largest_cutout", "resized_crop", "average_every")
"""Keys whose null is a value."""
_KNOWN = {"recipe", *Trained.model_fields, *Merged.model_fields, *Combined.model_fields}
LONGEST = 100
"""Methods that a chain of ``like`` may go through."""
_OWN = ("like", "title", "description", "checkpoint")
"""Keys that ``like`` does not inherit."""


def where(name: str, *keys: str | int) -> Location:
    """Where a config says something of a method."""
    return (name, *keys) if name in METHODS else ("define", name, *keys)


def default_methods(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The rows of a table whose config names none."""
    return (*DEFAULT_ROWS, *(name for name in mapping(content.get("define")) if name not in METHODS))


@dataclass
class Table:
    """All methods that a config knows.

    Attributes:
        given: name -> what is said of it, by itself and by what it is like, without defaults.
        settings: name -> the same over the defaults of its recipe; what cannot be resolved is left out.
        degradations: the ids of what experts are trained for.
        problems: (location, text) of each ``like`` that leads nowhere.
    """

    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    degradations: tuple[str, ...] = PAPER_DEGRADATIONS
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
    if named := ids_in(content.get("degradations")):
        table.degradations = tuple(named)
    defined = mapping(content.get("define"))
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
        settings = _with_defaults(raw, table.given.get(roots[name], raw), content, table)
        table.settings[name] = _with_weights(settings, searched_terms(name, content))
    return table


class _Unresolvable(Exception):
    """A method whose ``like`` leads nowhere; ``key`` is the same for all methods that end at the same mistake."""

    def __init__(self, location: Location, text: str, key: object) -> None:
        self.location, self.text, self.key = location, text, key


def _given(
    name: str, content: Mapping[str, Any], defined: Mapping[str, Any], below: tuple[str, ...]
) -> tuple[dict[str, Any], str]:
    """What is said of a method, and the name of the one that its chain of ``like`` ends at."""
    if name in METHODS:
        section, method = content.get(name), METHODS[name]
        if name == BASE and mapping(content.get("model")).get("weights") is not None:
            method = {**method, "start": PRETRAINED}
        return _laid_over(method, mapping(section)), name
    own = mapping(defined.get(name))
    like = own.get("like")
    if like is None:
        return _laid_over({}, own), name
    at = where(name, "like")
    if not isinstance(like, str):
        raise _Unresolvable(at, "must be the name of a method", at)
    if len(below) > LONGEST:
        raise _Unresolvable(where(below[0], "like"), f"is a chain of more than {LONGEST} methods", "long")
    if like in (*below, name):
        circle = [*below, name][[*below, name].index(like) :]
        text = f"goes round in a circle: {' -> '.join([*circle, like])}"
        raise _Unresolvable(where(circle[0], "like"), text, frozenset(circle))
    if like not in METHODS and like not in defined:
        known = tuple(one for one in (*METHODS, *defined) if one != name)
        raise _Unresolvable(at, f"no method {like!r}{close_to(str(like), known)}", at)
    parent, root = _given(like, content, defined, (*below, name))
    found = _laid_over({key: value for key, value in parent.items() if key not in _OWN}, own)
    if form_of(found) != "trained":  # nothing is left of a recipe that was inherited
        found = {key: value for key, value in found.items() if key not in Recipe.model_fields or key in own}
    return found, root


def _laid_over(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over settings, key by key; ``key: null`` takes a whole-valued key away, and says nothing elsewhere.

    A key that no method has is left to be refused, whatever it says: ``epochs: 1,000`` has the key ``000``.
    """
    own = {k: v for k, v in new.items() if k not in _WHOLE and k != "like"}
    plain = {k: v for k, v in own.items() if v is not None or k in _NULL or k not in _KNOWN}
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
    if form_of(raw) != "trained":
        return dict(raw)
    settings = {key: value for key, value in raw.items() if key != "recipe"}
    shaped = shape_of(root if form_of(root) == "trained" else raw, table.is_merged)
    chosen = raw.get("recipe") or content.get("recipe") or recipe_of_data(mapping(content.get("data")).get("name"))
    defaults = RECIPES[chosen if isinstance(chosen, str) and chosen in RECIPES else "paper"].get(shaped, {})
    protocol = PROTOCOLS.get(str(content.get("protocol") or "standard"), PROTOCOLS["standard"])
    precision = content.get("precision")
    own = {"precision": precision} if precision in get_args(Precision) else {}
    for more in (own, protocol.recipe, protocol.shapes.get(shaped, {})):
        defaults = merged(dict(defaults), dict(more))
    result: dict[str, Any] = merged(dict(defaults), settings)
    return result


def _with_weights(settings: dict[str, Any], searched: Collection[str]) -> dict[str, Any]:
    """The settings with weight 0 for each term of the loss that has parameters alone, where a search may weigh it."""
    loss = settings.get("loss")
    if not isinstance(loss, dict):
        return settings
    lacking = [t for t, given in loss.items() if isinstance(given, dict) and "weight" not in given and t in searched]
    return {**settings, "loss": {**loss, **{term: {"weight": 0.0, **loss[term]} for term in lacking}}}


def searched_terms(name: str, content: Mapping[str, Any]) -> list[str]:
    """The loss terms that a search of a method can turn on."""
    parts = (key.split(".") for key in searched_keys(name, content))
    return [rest[0] for first, *rest in parts if first == "loss" and len(rest) == 1]


def searched_keys(name: str, content: Mapping[str, Any]) -> list[str]:
    """The keys of a method that are searched."""
    given = content.get("search")
    searches = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, Mapping)]
    spaces = [one.get("space") for one in searches if one.get("of", SEARCHED) == name]
    return [str(key) for space in spaces if isinstance(space, Mapping) for key in space]
