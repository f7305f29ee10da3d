"""Keys of a config that have another name now: they still work, and one line gives the new name."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from fusiondistill.methods import EXPERTS, METHODS
from fusiondistill.resolution import default_methods
from fusiondistill.safe_yaml import Location

__all__ = ["OldSpelling", "modern", "say_modern"]

_SOUPS, _TOLD = "modelsoups", "modelsoups-told"
_FUSION = {"method": "merge", "recalibrate": "recalibrate", "images": "images"}
_SEARCHED = {
    "fusion.method": "start.merge",
    "fusion.recalibrate": "start.recalibrate",
    "loss.temperature": "loss.kd.temperature",
}


class OldSpelling(FutureWarning):
    """Gives the new name of a key."""


def _say(old: str, new: str) -> None:
    warnings.warn(OldSpelling(f"{old} is {new} now; the old name still works"), stacklevel=3)


def modern(
    content: Mapping[str, Any], lines: Mapping[Location, int | None]
) -> tuple[dict[str, Any], dict[Location, int | None], list[tuple[Location, str]]]:
    """A config's content and lines with old keys under their new names; each is told by a warning.

    Returns:
        The content, the lines, and (location, text) of what is given under both names.
    """
    new, at = copy.deepcopy(dict(content)), dict(lines)
    conflicts = list(_given_twice(new))
    for old, place, value in list(_moves(new)):
        _put(new, place, value)
        line = next((at[old[:end]] for end in range(len(old), 0, -1) if old[:end] in at), None)
        for end in range(1, len(place) + 1):
            at.setdefault(place[:end], line)
        at[place] = line
    return new, at, conflicts


def say_modern(key: str) -> None:
    """Tell by a warning what the dotted key of a ``--set`` or of a sweep's axis is called now, if that is new.

    The old key goes on working where it is: what it says is laid over the content, which :func:`modern` moves.
    """
    if key.endswith("loss.temperature"):
        _say(key, key.removesuffix("temperature") + "kd.temperature")


def _given_twice(content: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """What is given under its old name and its new one."""
    fusion, soups = content.get("fusion"), content.get(_SOUPS)
    start = soups.get("start") if isinstance(soups, dict) else None
    for old, new in _FUSION.items():
        if isinstance(fusion, dict) and isinstance(start, dict) and old in fusion and new in start:
            yield ("fusion", old), f"is {_SOUPS}.start.{new} now, which is given, too: leave one out"
    for place, section in [((name,), content.get(name)) for name in METHODS] + _defined(content):
        loss = section.get("loss") if isinstance(section, dict) else None
        kd = loss.get("kd") if isinstance(loss, dict) else None
        if isinstance(loss, dict) and "temperature" in loss and isinstance(kd, dict) and "temperature" in kd:
            yield (*place, "loss", "temperature"), "is loss.kd.temperature now, which is given, too: leave one out"


def _put(content: dict[str, Any], place: Location, value: Any) -> None:
    for part in place[:-1]:
        if not isinstance(content.get(part), dict):  # type: ignore[arg-type]
            content[part] = {}  # type: ignore[index]
        content = content[part]  # type: ignore[index]
    content[place[-1]] = value  # type: ignore[index]


def _moves(content: dict[str, Any]) -> Iterator[tuple[Location, Location, Any]]:
    """(old location, new location, value) of every old key, which is taken out."""
    if isinstance(content.get("fusion"), dict):
        yield from _of_fusion(content, content.pop("fusion"))
    elif "fusion" in content and content["fusion"] is None:
        del content["fusion"]
    for place, section in [((name,), content.get(name)) for name in METHODS] + _defined(content):
        loss = section.get("loss") if isinstance(section, dict) else None
        if isinstance(loss, dict) and "temperature" in loss:  # goes on as it is: the loss itself reads it
            _say(".".join((*place, "loss.temperature")), ".".join((*place, "loss.kd.temperature")))
    searches = content.get("search")
    for i, search in enumerate(searches if isinstance(searches, list) else [searches]):
        space = search.get("space") if isinstance(search, dict) else None
        if isinstance(space, dict) and not space.keys().isdisjoint(_SEARCHED):
            renamed = {_SEARCHED.get(key, key): value for key, value in space.items()}
            for key in space.keys() & _SEARCHED.keys():
                _say(f"search.space.{key}", f"search.space.{_SEARCHED[key]}")
            at: Location = ("search", i, "space") if isinstance(searches, list) else ("search", "space")
            for key, value in space.items():
                if key in _SEARCHED:
                    yield (*at, key), (*at, _SEARCHED[key]), value
            search["space"] = renamed


def _defined(content: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    define = content.get("define")
    return [(("define", str(name)), raw) for name, raw in define.items()] if isinstance(define, dict) else []


def _of_fusion(content: dict[str, Any], fusion: dict[str, Any]) -> Iterator[tuple[Location, Location, Any]]:
    """``fusion:``, of which there was one an experiment, is the start of the row of the averaged experts."""
    soups = content.get(_SOUPS)
    start = dict(METHODS[_SOUPS]["start"])
    if isinstance(soups, dict) and isinstance(soups.get("start"), dict):
        start = {**start, **soups["start"]}
    told = fusion.get("recalibrate") == "per_degradation"
    moved: list[tuple[Location, Location, Any]] = []
    for key, value in fusion.items():
        new = _FUSION.get(key)
        if new and value is not None:
            start[new] = "mixed" if told and key == "recalibrate" else value
            moved.append((("fusion", key), (_SOUPS, "start", new), start[new]))
        if key == "checkpoint" and value is not None:
            moved.append((("fusion", key), (_SOUPS, "checkpoint"), value))
        if key not in (*_FUSION, "checkpoint"):
            content.setdefault("fusion", {})[key] = value  # for the check of unknown keys
        elif value is not None:
            name = "checkpoint" if key == "checkpoint" else f"start.{new}"
            methods = content.get("methods")
            row = f", and the row {_TOLD}" if not isinstance(methods, list) or _SOUPS in methods else ""
            more = f" (mixed){row}" if told and key == "recalibrate" else ""
            _say(f"fusion.{key}", f"{_SOUPS}.{name}{more}")
    if moved:
        yield ("fusion",), (_SOUPS, "start"), start
    yield from moved
    if told:
        yield ("fusion",), (_TOLD, "start"), {**start, "of": EXPERTS, "recalibrate": "per_degradation"}
        methods = content.get("methods")
        if isinstance(methods, list) and _SOUPS in methods and _TOLD not in methods:
            methods.insert(methods.index(_SOUPS) + 1, _TOLD)
        elif methods is None:
            rows = list(default_methods(content))
            content["methods"] = [*rows[: rows.index(_SOUPS) + 1], _TOLD, *rows[rows.index(_SOUPS) + 1 :]]
