"""Rules for searches: which method, which keys of its recipe and of its start, which values."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fusiondistill.methods import EXPERTS, SEARCHED, Method, Trained, form_of
from fusiondistill.recipe import flat, with_keys
from fusiondistill.registry import Entry, close_to
from fusiondistill.resolution import Table
from fusiondistill.resolution_rules import has_base
from fusiondistill.safe_yaml import Location

__all__ = ["START", "check_searches", "merges_of"]

START = "start."
"""Opens the keys of a search that are settings of a merged start and none of the recipe."""
RECALIBRATE = ("none", "average", "mixed")
"""What a search may choose: with ``per_degradation`` there is no one network to start from."""
_READER: TypeAdapter[Any] = TypeAdapter(Method)


def check_searches(raw: Mapping[str, Any], table: Table) -> Iterable[tuple[Location, str]]:
    """What is wrong with the searches of a config."""
    given = raw.get("search")
    searches = given if isinstance(given, list) else [given] if given else []
    of: list[str] = []
    for i, search in enumerate(searches):
        if not isinstance(search, dict):
            continue
        at: Location = ("search", i) if isinstance(given, list) else ("search",)
        name = search.get("of", SEARCHED)
        if not isinstance(name, str):
            continue
        if name in of:
            yield (*at, "of"), f"there already is a search of {name}"
        of.append(name)
        if name not in table.given:
            yield (*at, "of"), f"no method {name!r}{close_to(name, tuple(table.given))}"
        elif isinstance(table.given[name].get("checkpoint"), str):
            yield (*at, "of"), f"{name}.checkpoint stands for its training: there is nothing to search"
        elif form_of(table.given[name]) != "trained":
            yield (*at, "of"), f"{name} is not trained: there is no recipe to search"
        else:
            yield from _check_space(search, at, name, table)
        yield from _check_searcher(search, at)


def _check_searcher(search: Mapping[str, Any], at: Location) -> Iterator[tuple[Location, str]]:
    if search.get("searcher") != "optuna":
        return
    if importlib.util.find_spec("optuna") is None:
        yield (*at, "searcher"), "optuna is not installed: pip install 'fusiondistill[optuna]'"
    for key, forms in _dimensions(search).items():
        if "grid" in forms:
            yield (*at, "space", key), "optuna tries no grid point by point: use choice, or searcher: random"


def _dimensions(search: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    space = search.get("space")
    return {key: d if isinstance(d, dict) else {} for key, d in space.items()} if isinstance(space, dict) else {}


def _check_space(search: Mapping[str, Any], at: Location, name: str, table: Table) -> Iterator[tuple[Location, str]]:
    dimensions = _dimensions(search)
    try:
        method = _READER.validate_python(table.settings.get(name))
    except ValidationError:
        return  # what is wrong with the method is said there
    assert isinstance(method, Trained)
    start = _merged_start(name, table)
    for key, forms in dimensions.items():
        problem = _start_problem(key, forms, dimensions, name, start, table) if key.startswith(START) else None
        problem = problem if key.startswith(START) else _recipe_problem(key, forms, method, dimensions)
        if problem:
            yield (*at, "space", key), problem


def _merged_start(name: str, table: Table) -> Mapping[str, Any] | None:
    """The merge that a method starts from, also where it names the method that is this merge."""
    start = table.given[name].get("start")
    if isinstance(start, str) and table.is_merged(start):
        start = table.given[start]["start"]
    return start if isinstance(start, Mapping) else None


def merges_of(own: str, dimensions: Mapping[str, Mapping[str, Any]]) -> list[Entry]:
    """The merging methods that a search may choose between, the method's own first."""
    from fusiondistill.merging import MERGING

    forms = dimensions.get(f"{START}merge", {})
    named = [value for values in forms.values() if isinstance(values, list | tuple) for value in values]
    names = [name for name in (own, *named) if isinstance(name, str) and name in MERGING]
    return [MERGING[name] for name in dict.fromkeys(names)]


def _start_problem(
    key: str,
    forms: Mapping[str, Any],
    dimensions: Mapping[str, Mapping[str, Any]],
    name: str,
    start: Mapping[str, Any] | None,
    table: Table,
) -> str | None:
    """What is wrong with a dimension of a merged start."""
    if start is None:
        return f"{name} starts from no merge: its start is {table.given[name].get('start')}"
    named = table.given[name].get("start")
    if isinstance(named, str) and table.given[named].get("checkpoint"):
        return f"has nothing to choose from: {named}.checkpoint stands for the merge"
    merges = merges_of(str(start.get("merge")), dimensions)
    parameters = {p: entry for entry in merges for p in entry.parameters.model_fields}
    what = key.removeprefix(START)
    if what in ("merge", "recalibrate"):
        problem = _choice_problem(what, forms)
        return problem or (_merge_problem(start, dimensions, table) if what == "merge" else None)
    if what not in parameters:
        known = tuple(f"{START}{one}" for one in ("merge", "recalibrate", *parameters))
        return f"is no setting of this start{close_to(key, known)}"
    for value in samples(forms):
        try:
            parameters[what].resolve({what: value})
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            return f"cannot be {value!r}: {message[0].lower()}{message[1:]}"
    return None


def _choice_problem(what: str, forms: Mapping[str, Any]) -> str | None:
    from fusiondistill.merging import MERGING

    known = tuple(MERGING) if what == "merge" else RECALIBRATE
    if set(forms) - {"choice", "grid"}:
        return f"needs a choice or a grid of {', '.join(known)}"
    for values in forms.values():
        for value in values if isinstance(values, list) else ():
            if not isinstance(value, str) or value not in known:
                return f"cannot be {value!r}{close_to(str(value), known)}"
    return None


def _merge_problem(start: Mapping[str, Any], dimensions: Mapping[str, Mapping[str, Any]], table: Table) -> str | None:
    """What a merging method lacks that a search may choose."""
    of = table.given.get(str(start.get("of", EXPERTS)), {})
    for entry in merges_of(str(start.get("merge")), dimensions):
        if "base" in entry.facts.get("needs", ()) and not has_base(of, table):
            return f"cannot be {entry.name!r}: it needs one network that all merged ones started from"
        required = [name for name, field in entry.parameters.model_fields.items() if field.is_required()]
        lacking = [name for name in required if f"{START}{name}" not in dimensions]
        if lacking and entry.name != start.get("merge"):
            return f"cannot be {entry.name!r}: it needs {lacking[0]}; search {START}{lacking[0]}, too"
    return None


def _recipe_problem(
    key: str, forms: Mapping[str, Any], method: Trained, dimensions: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """What is wrong with a dimension: no key of the recipe, or a value that the key does not admit."""
    if key in ("epochs", "checkpoint"):
        return "is not for a search: trials have search.epochs and train themselves"
    if key == "channels_last":
        return "is not for a search: it changes results by rounding alone"
    if key in ("batch_size", "batchnorm") and method.bands > 1:
        return f"is not for a search with bands: {method.bands}, which go with it: compare two methods, or say bands: 1"
    recipe = method.recipe
    keys = tuple(flat(recipe))
    if (term := _term(key)) and term.facts["labels"] == "one" and (recipe.mixup or "mixup" in dimensions):
        return "takes one label of each image, and mixup mixes two: leave one of them out"
    if (term := _term(key)) and term.facts["across"] and (recipe.pairing != "same" or "pairing" in dimensions):
        return "compares an image under all degradations of a step: say pairing: same"
    if key not in keys:
        keys = (*keys, *(f"{START}{name}" for name in ("merge", "recalibrate")))
        return f"is no key of the recipe{close_to(key.replace('fusion.method', 'start.merge'), keys)}"
    stepless = not recipe.schedule.milestones and "schedule.milestones" not in dimensions
    if key == "schedule.name" and stepless and "steps" in samples(forms):
        return "cannot be 'steps': the method's schedule has no milestones; search schedule.milestones, too"
    for value in samples(forms):
        try:
            found = flat(with_keys(recipe, {key: value}))[key]
        except ValidationError as error:
            for problem in error.errors():
                if f"{'.'.join(map(str, problem['loc']))}.".startswith(f"{key}."):
                    message = problem["msg"].removeprefix("Value error, ")
                    hint = "; use integers, or a choice" if problem["type"].startswith("int_") else ""
                    return f"cannot be {value!r}: {message[0].lower()}{message[1:]}{hint}"
            continue  # it does not go with the default of another key, which is not said yet
        if isinstance(value, str | bool) and type(found) is not type(value):
            return f"cannot be {value!r}: a number is meant"
    return None


def _term(key: str) -> Entry | None:
    """The loss term whose weight a key is."""
    from fusiondistill.losses import LOSSES

    first, *rest = key.split(".")
    return LOSSES[rest[0]] if first == "loss" and len(rest) == 1 and rest[0] in LOSSES else None


def samples(forms: Mapping[str, Any]) -> Iterable[Any]:
    """Values of a dimension: all that it lists, the ends of a range, and one between that is no whole number."""
    for form, values in forms.items():
        if isinstance(values, list):
            yield from values
            ends = [value for value in values if isinstance(value, int | float)]
            if form in ("uniform", "loguniform") and len(ends) == 2:
                yield ends[0] + (ends[1] - ends[0]) / 2.718
