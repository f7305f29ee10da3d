"""What is wrong in a config, in the words of its file: pydantic's errors with their lines, what a wrong key meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from fusiondistill.config import SECTIONS, Config
from fusiondistill.methods import EXPERTS, METHODS, Combined, Merged, Trained, form_of
from fusiondistill.parametrised import Parametrised
from fusiondistill.refusals import worded
from fusiondistill.resolution import resolve, where
from fusiondistill.safe_yaml import Location, mapping

__all__ = ["ConfigError", "Mistake", "explained", "line_of"]

_CALLED = {
    "learningrate": "lr", "wd": "weight_decay", "decay": "weight_decay", "bs": "batch_size", "batch": "batch_size",
    "numepochs": "epochs", "nepochs": "epochs", "maxepochs": "epochs", "opt": "optimizer",
    "optim": "optimizer", "scheduler": "schedule", "lrscheduler": "schedule", "lrschedule": "schedule",
    "losses": "loss", "network": "model", "arch": "model", "architecture": "model",
    "net": "model", "dataset": "data", "datasets": "data", "path": "root", "dir": "root",
    "numthreads": "threads", "numworkers": "workers", "gpus": "gpus_per_worker", "cpus": "cpus_per_worker",
    "device": "resources", "gpu": "resources", "cuda": "resources", "pretrained": "weights",
    "amp": "precision", "padding": "crop_padding", "hflip": "flip", "randomresizedcrop": "resized_crop",
}  # fmt: skip
"""What other projects call a key, in letters alone -> its name here."""
_SHOWN = 200
"""The most mistakes that a message lists."""
_DEEPEST = 2
"""How deep below a section an unknown key is looked for."""


@dataclass(frozen=True)
class Mistake:
    """One thing wrong in a config: the dotted key, what was expected, the line (0: the whole file, None: ``--set``)."""

    key: str
    message: str
    line: int | None

    def __str__(self) -> str:
        where = "--set" if self.line is None else f"line {self.line}" if self.line else ""
        return ": ".join(part for part in (where, self.key, self.message) if part)


class ConfigError(ValueError):
    """A config that cannot be used; ``mistakes`` lists every mistake."""

    def __init__(self, source: str, mistakes: Iterable[Mistake]) -> None:
        self.source = source
        self.mistakes = sorted(mistakes, key=lambda m: (m.line or 0, m.key))
        count = len(self.mistakes)
        head = f"{source}: {count} mistake{'s' if count != 1 else ''}"
        rest = [f"  and {count - _SHOWN} more"] if count > _SHOWN else []
        super().__init__("\n".join([head, *(f"  {m}" for m in self.mistakes[:_SHOWN]), *rest]))


def line_of(location: Location, lines: Mapping[Location, int | None]) -> int | None:
    """The line of a location, or of the nearest key above it that is in the file; None: it was given by ``--set``."""
    for end in range(len(location), 0, -1):
        apart = tuple(one for part in location[:end] for one in (part.split(".") if isinstance(part, str) else [part]))
        for found in (location[:end], apart):  # keys with dots may be written below one another
            if found in lines:
                return lines[found]
    return 1


def explained(
    error: ValidationError, content: Mapping[str, Any], lines: Mapping[Location, int | None]
) -> Iterable[Mistake]:
    """What pydantic refused as mistakes; for a key of several types the first one.

    Args:
        content: of the config, in today's spelling.
        lines: location -> line.
    """
    elsewhere = cache(lambda: list(_paths((), content)))
    problems = error.errors()
    short = [p for p in problems if p["type"] == "too_short"]  # an empty sequence, since its items were refused
    again = [p for p in short for other in problems if p["loc"] == other["loc"][: len(p["loc"])] != other["loc"]]
    told = [(p["type"], _explain(p, content, lines, elsewhere)) for p in problems if p not in again]
    found = [(kind, mistake) for kind, mistake in told if mistake]

    def within(key: str) -> bool:
        return any(mistake.key.startswith(f"{key}.") for _, mistake in found)

    # Of a list that may also be a word, what is wrong in it counts.
    kept = [mistake for kind, mistake in found if kind != "literal_error" or not within(mistake.key)]
    return {mistake.key: mistake for mistake in reversed(kept)}.values()


def _fields_at(location: Location, content: Mapping[str, Any]) -> list[str]:
    """The keys that are known at a place of a config."""
    if not location:
        return [*(SECTIONS - {"fusion"}), *METHODS]
    model, raw = _model_at(location, content)
    keys = [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]
    known = isinstance(model, type) and issubclass(model, Parametrised)
    return keys + (model.parameter_names(mapping(raw)) if known else [])


def _model_at(location: Location, content: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model of what stands at a place of a config, None where it has no keys; and what stands there."""
    model: Any = Config
    raw: Any = content
    if location and (location[0] in METHODS or location[0] == "define"):
        name = location[0] if location[0] in METHODS else location[1] if len(location) > 1 else ""
        raw = resolve(content).given.get(str(name), {})
        rows: dict[str, Any] = {"trained": Trained, "merged": Merged, "combined": Combined}
        model = rows[_forms(content).get(str(name)) or "trained"]
        location = location[1 if location[0] in METHODS else 2 :]
    for part in location:
        items = isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        raw = raw[part] if items else mapping(raw).get(str(part))
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            continue  # the key of a mapping, whose values are this model
        annotation = fields[part].annotation
        candidates = [a for a in (annotation, *_arguments(annotation)) if _is_model(a)]
        if not candidates:
            return None, raw
        model = candidates[0]
    return model, raw


def _as_list(location: Location, shown: Any, content: Mapping[str, Any]) -> str:
    """What to write for a list in the place of one value: its form, where the key's description begins with that."""
    field = getattr(_model_at(location[:-1], content)[0], "model_fields", {}).get(location[-1])
    if field is None:
        return f"write [{shown}]"
    if form := re.match(r"\[.*?\]", field.description or ""):
        return f"write {form[0]}"
    kinds = [get_args(one) for one in (field.annotation, *_arguments(field.annotation)) if get_origin(one) is tuple]
    count = len(kinds[0]) if kinds and Ellipsis not in kinds[0] else 1
    one = "NUMBER" if isinstance(shown, str) and count > 1 else str(shown)
    return f"write [{', '.join([one] * count)}]"


def _forms(content: Mapping[str, Any]) -> dict[str, str]:
    """Name of each method -> its form."""
    return {name: form_of(raw) for name, raw in resolve(content).given.items()}


def _arguments(annotation: Any) -> list[Any]:
    found: list[Any] = []
    for argument in get_args(annotation):
        found += [argument, *_arguments(argument)]
    return found


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _place(location: Location, content: Mapping[str, Any]) -> Location:
    """The location in the file of a location in the config's model."""
    if location[:1] == ("table",):
        rest = [part for part in location[2:] if part not in ("trained", "merged", "combined") and "[" not in str(part)]
        rest = [part for i, part in enumerate(rest) if not (part in ("Merge", "str", "Inference", "Teachers") and i)]
        return where(str(location[1]), *rest) if len(location) > 1 else location
    if location[:1] == ("search",) and isinstance(content.get("search"), dict):
        return ("search", *location[2:])
    return location


def _paths(location: Location, content: Mapping[str, Any]) -> Iterator[Location]:
    """All keys that are known at a place of a config and below it."""
    keys = list(mapping(content.get("define"))) if location == ("define",) else _fields_at(location, content)
    for key in keys:
        yield (*location, key)
        if len(location) < _DEEPEST + (location[:1] == ("define",)):
            yield from _paths((*location, key), content)


def _unknown(location: Location, content: Mapping[str, Any], known: list[str], paths: Iterable[Location]) -> str:
    """What to say of an unknown key: where it lies instead, else the nearest key, else all keys of the place."""
    key = location[-1]
    if (name := _CALLED.get(re.sub(r"[^a-z]", "", str(key).lower()))) in known:
        return f"unknown key; did you mean {name!r}?"
    key = name or key
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.8)
    same = [path for path in paths if path[-1] == key and path != location]
    pairs = [zip(path, location, strict=False) for path in same]
    shared = [sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], one)) for one in pairs]
    if meant := [".".join(map(str, path)) for path, n in zip(same, shared, strict=True) if n == max(shared)]:
        meant = near + meant
        return f"unknown key here; did you mean {', '.join(meant[:3])}{', ...' if len(meant) > 3 else ''}?"
    close = difflib.get_close_matches(str(key), known, n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else f"unknown key; known: {', '.join(known)}"


def _of_its_source(location: Location, content: Mapping[str, Any]) -> str:
    """What to say of a key of a training that a method without one was given: whose key it is; else ""."""
    *section, key = (str(part) for part in location)
    defined = section[:1] == ["define"]
    if len(section) != 1 + defined:
        return ""
    method = resolve(content).given.get(section[-1])
    if method is None or key not in Trained.model_fields or form_of(method) == "trained":
        return ""
    source = mapping(method.get("start")).get("of", method.get("of", EXPERTS))
    return f"is a key of trainings, and {section[-1]} takes its weights from {source}: write it there, {source}.{key}"


def _explain(
    problem: Any,
    content: Mapping[str, Any],
    lines: Mapping[Location, int | None],
    elsewhere: Callable[[], Iterable[Location]],
) -> Mistake | None:
    """A pydantic error as a mistake; None for one that the rules, or the method that it is inherited from, report."""
    location = _place(tuple(problem["loc"]), content)
    message, shown = worded(problem), problem.get("input")
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return None  # the rules report it
    if (
        location[:1] == ("define",)
        and len(location) > 2
        and mapping(content["define"].get(str(location[1]))).get("like")
    ):
        own = mapping(content["define"][str(location[1])])
        if location[2] not in own:
            return None
    if problem["type"] == "extra_forbidden":
        known = problem.get("ctx", {}).get("known") or _fields_at(location[:-1], content)
        message = _of_its_source(location, content) or _unknown(location, content, known, elsewhere())
        if len(location) == 1 and {"like", "start", "train_on", "of"} & mapping(shown).keys():
            message = f"unknown key; your own method stands below define: {{{location[0]}: ...}}"
    elif problem["type"] == "missing":
        message = "is missing"
    elif problem["type"] == "too_short":
        message = f"needs {problem['ctx']['min_length']} or more, and has {problem['ctx']['actual_length']}"
    elif problem["type"] != "value_error":
        if problem["type"] in ("tuple_type", "list_type") and isinstance(shown, dict):
            first = "{name: ...}" if "name" in shown else next(iter(shown), "")
            message = f"must be a list, and this is a mapping: write [{first}, ...], or a dash before each item"
        if problem["type"] in ("model_type", "model_attributes_type") and (keys := _fields_at(location, content)):
            said = {**problem, "msg": f"{problem['msg']} with keys such as {', '.join(keys[:3])}"}
            message = worded(said)
        if location[-1:] == ("loss",) and isinstance(shown, str):
            message += f": write {{{shown}: 1}}, a weight for each term"
        if problem["type"] in ("tuple_type", "list_type") and isinstance(shown, int | float | str):
            message += f": {_as_list(location, shown, content)}"
    for at in [at for at, part in enumerate(location) if "[" in str(part) and location[: at + 1] not in lines][::-1]:
        location = (*location[:at], *location[at + 1 :])  # which form of a key it was
    while location[-1:] == ("str",) and location not in lines:
        location = location[:-1]
    return Mistake(".".join(map(str, location)), message, line_of(location, lines))
