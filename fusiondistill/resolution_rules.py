"""Rules between methods: what may start from what, who may teach whom, which networks can answer together."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from fusiondistill.methods import EXPERTS, METHODS, form_of, searched_name
from fusiondistill.recipe import Recipe
from fusiondistill.recipes import PRETRAINED, RANDOM, RECIPES
from fusiondistill.registry import close_to
from fusiondistill.resolution import NAME, Table, searched_keys, searched_terms, where
from fusiondistill.safe_yaml import Location, mapping

__all__ = ["problems_of_table", "way_of"]

Problem = tuple[Location, str]
NO_METHOD = (RANDOM, PRETRAINED)
"""What a method may start from besides others."""


def problems_of_table(table: Table, content: Mapping[str, Any], sections: Collection[str]) -> Iterator[Problem]:
    """What is wrong with the methods of a config and with how they refer to each other.

    Args:
        table: the methods.
        content: of the config.
        sections: its keys that are no methods.
    """
    define = content.get("define")
    if not isinstance(define or {}, Mapping):
        yield ("define",), "must be a mapping of methods, like {mine: {like: METHOD}}"
    yield from _names(define if isinstance(define, Mapping) else {}, table, sections)
    for name in METHODS:
        if not isinstance(content.get(name) or {}, Mapping):
            yield (name,), f"must be a mapping of settings, not {content[name]!r}"
        elif _said(name, content).get("like") is not None:
            yield (name, "like"), "is for methods below define: this one is built in, and inherits from none"
    yield from table.problems
    for name in table.given:
        yield from _schedule(name, content)
        yield from _crop(name, table, content)
        yield from _rounds(name, table, content)
        yield from _apart(name, table)
        if table.given[name].get("start") == PRETRAINED and not _has_weights(content):
            yield where(name, "start"), f"{PRETRAINED} is model.weights: say {PRETRAINED} there, or a FILE"
    said = {name: raw for name, raw in table.given.items() if raw or mapping(define).get(name) == {}}
    wrong = [problem for name, raw in said.items() for problem in _of_one(name, raw, table)]
    yield from wrong
    if wrong:
        return
    yield from _circles(table)
    for name in table.given:
        yield from _loss(name, table, content)


def _crop(name: str, table: Table, content: Mapping[str, Any]) -> Iterator[Problem]:
    """A ratio of crops that are neither given, nor said to be none, nor searched."""
    said = {*table.given[name], *searched_keys(name, content)}
    ratio, default = _said(name, content).get("resized_crop_ratio"), Recipe.model_fields["resized_crop_ratio"].default
    if ratio not in (None, default, list(default)) and "resized_crop" not in said:
        told = "says how resized_crop cuts, which is not given: write resized_crop: [0.3, 1.0], too"
        yield where(name, "resized_crop_ratio"), told


def _names(defined: Mapping[str, Any], table: Table, sections: Collection[str]) -> Iterator[Problem]:
    """Names that a config may not give to its own method."""
    from fusiondistill.degradations import DEGRADATIONS

    degradations = {*DEGRADATIONS, *table.degradations}
    each = [name for name, raw in table.given.items() if raw.get("train_on") == "each"]
    taken_by = {f"{name}-{degradation}": name for name in each for degradation in degradations}
    for name, raw in defined.items():
        if name in METHODS:
            yield ("define", name), f"is built in: to change it, write a section {name}: beside define"
        elif not NAME.fullmatch(name):
            yield ("define", name), "a method's name is lower-case letters, digits, '-' and '_', a letter first"
        elif name in sections or name in NO_METHOD:
            yield ("define", name), "has its own meaning in a config: choose another"
        elif name.endswith(searched_name("")):
            yield ("define", name), f"ends like the row that a search gives ({searched_name('METHOD')}): choose another"
        elif taken := taken_by.get(name):
            yield ("define", name), f"is the name of a network of {taken} ({taken}-<degradation>): choose another"
        if not isinstance(raw, dict):
            yield ("define", name), "must be a mapping of settings, like {like: METHOD, title: TEXT}"


def _loss(name: str, table: Table, content: Mapping[str, Any]) -> Iterator[Problem]:
    """Terms that need teachers where there are none, and teachers that the method names itself and no term needs."""
    from fusiondistill.losses import LOSSES, need_of

    settings = table.settings.get(name, {})
    loss = settings.get("loss")
    if form_of(settings) != "trained" or not isinstance(loss, Mapping):
        return
    weights = {term: value.get("weight") if isinstance(value, Mapping) else value for term, value in loss.items()}
    terms = [t for t, w in weights.items() if t in LOSSES and isinstance(w, int | float) and w > 0]
    terms += [term for term in searched_terms(name, content) if term in LOSSES]
    across = [term for term in terms if LOSSES[term].facts["across"]]
    if across and (settings.get("train_on") != "all" or len(table.degradations) < 2):
        yield where(name, "loss"), f"{across[0]} compares an image under several degradations: train_on: all has these"
    needing = [term for term in terms if need_of(term) != "nothing"]
    if needing and settings.get("teachers") is None:
        yield where(name, "loss"), f"{needing[0]} needs teachers: say teachers: METHOD"
    if not needing and _said(name, content).get("teachers") is not None:
        yield where(name, "teachers"), "no term of the loss needs them: give one a weight, like loss: {kd: 1.0}"


def _rounds(name: str, table: Table, content: Mapping[str, Any]) -> Iterator[Problem]:
    """Networks that are to be averaged every few epochs."""
    settings = table.settings.get(name, {})
    every, epochs = settings.get("average_every"), settings.get("epochs")
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        return  # said where it is read
    at = where(name, "average_every")
    if settings.get("train_on") != "each":
        yield at, "is for train_on: each, where there are several networks to average"
    elif len(table.degradations) < 2:
        yield at, f"needs two networks to average, and there is one degradation: {table.degradations[0]}"
    elif isinstance(epochs, int) and every >= epochs:
        yield at, f"is {every}, and there are {epochs} epochs: nothing would be averaged before the end"
    elif isinstance(settings.get("checkpoint"), Mapping):
        yield at, f"trains all networks together, and {name}.checkpoint stands for some of them: give all or none"
    elif searched_keys(name, content):
        yield at, f"is not for a method that is searched: search {name} without it, and take what it finds"


def _apart(name: str, table: Table) -> Iterator[Problem]:
    """BatchNorm by degradation, where a network sees one alone."""
    settings = table.settings.get(name, {})
    apart = settings.get("batchnorm") == "apart"
    if apart and settings.get("train_on") != "all":
        yield where(name, "batchnorm"), "apart is for train_on: all, where a step has images of several degradations"
    if _bands(settings) == 1:
        return
    if not apart:
        yield where(name, "bands"), "is for batchnorm: apart"
    elif settings.get("teachers") is not None:
        yield where(name, "bands"), "is for a method without teachers"


def _bands(settings: Mapping[str, Any]) -> int:
    """A method's number of bands; 1 for a value that is no such number, which is said where it is read."""
    bands = settings.get("bands", 1)
    return bands if isinstance(bands, int) and bands > 1 else 1


def _has_weights(content: Mapping[str, Any]) -> bool:
    model = content.get("model")
    return isinstance(model, Mapping) and model.get("weights") is not None


def _said(name: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config itself says of a method."""
    section = content.get(name) if name in METHODS else (content.get("define") or {}).get(name)
    return section if isinstance(section, Mapping) else {}


def _schedule(name: str, content: Mapping[str, Any]) -> Iterator[Problem]:
    """A schedule replaces the default as a whole: without milestones the rate would never drop."""
    schedule = _said(name, content).get("schedule")
    if isinstance(schedule, Mapping) and schedule.get("name", "steps") == "steps" and not schedule.get("milestones"):
        text = "steps need milestones, like [0.3, 0.6, 0.8] (fractions of all epochs); name: constant has none"
        yield where(name, "schedule"), text


def _of_one(name: str, raw: Mapping[str, Any], table: Table) -> Iterator[Problem]:
    recipe, form = raw.get("recipe"), form_of(raw)
    if recipe is not None and (not isinstance(recipe, str) or recipe not in RECIPES):
        yield where(name, "recipe"), f"no recipe {recipe!r}{close_to(str(recipe), tuple(RECIPES))}"
    if not form:
        text = "says neither train_on (trained), nor start: {merge: ...} (merged), nor of with inference (combined)"
        yield where(name), text
        return
    unknown = list(_unknown(name, raw, table))
    yield from unknown
    if not unknown:
        rules = {"trained": _trained, "merged": _merged, "combined": _combined}
        yield from rules[form](name, raw, table)


def _references(raw: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(keys, name) of every other method that a method names."""
    start, teachers = raw.get("start"), raw.get("teachers")
    if isinstance(start, str) and start not in NO_METHOD:
        yield ("start",), start
    if isinstance(start, Mapping) and isinstance(of := start.get("of", EXPERTS), str):
        yield ("start", "of"), of
    if isinstance(teachers, Mapping) and isinstance(of := teachers.get("of"), str):
        yield ("teachers", "of"), of
    if isinstance(teachers, str):
        yield ("teachers",), teachers
    if isinstance(raw.get("of"), str):
        yield ("of",), raw["of"]


def _unknown(name: str, raw: Mapping[str, Any], table: Table) -> Iterator[Problem]:
    for keys, other in _references(raw):
        if other not in table.given:
            known = (*(NO_METHOD if keys == ("start",) else ()), *(one for one in table.given if one != name))
            yield where(name, *keys), f"no method {other!r}{close_to(other, known)}"


def _trained(name: str, raw: Mapping[str, Any], table: Table) -> Iterator[Problem]:
    start, train_on = raw.get("start"), raw.get("train_on")
    if "of" in raw:
        yield where(name, "of"), "is for methods that combine networks; a trained one has start and teachers"
    if start is None:
        yield (
            where(name, "start"),
            f"is missing: {RANDOM}, {PRETRAINED}, the name of a method, or {{merge: ..., of: ...}}",
        )
    elif isinstance(start, Mapping):
        yield from _merge(name, start, table)
        if start.get("recalibrate") == "per_degradation":
            yield where(name, "start", "recalibrate"), "per_degradation gives a network for each degradation: no start"
    elif isinstance(start, str) and start not in NO_METHOD:
        gives = table.gives(start)
        if gives == "combined":
            yield where(name, "start"), f"{start} answers with networks of another method and has none of its own"
        elif gives == "each" and not (train_on == "each" and not table.is_merged(start)):
            text = f"{start} gives a network for each degradation; only train_on: each starts from these"
            yield where(name, "start"), text
    yield from _taught(name, raw, table)
    if start == RANDOM and raw.get("pull"):
        yield (
            where(name, "pull"),
            f"pulls towards the start, which must not be {RANDOM} weights",
        )
    yield from _inference(name, raw, table, several=train_on == "each")


def _taught(name: str, raw: Mapping[str, Any], table: Table) -> Iterator[Problem]:
    teachers = raw.get("teachers")
    of = teachers.get("of") if isinstance(teachers, Mapping) else teachers
    if not isinstance(of, str):
        return
    gives, by = table.gives(of), teachers.get("by", "degradation") if isinstance(teachers, Mapping) else "degradation"
    if gives == "combined":
        yield where(name, "teachers"), f"{of} answers with networks of another method: name that one"
    elif by != "degradation" and (gives == "one" or len(table.degradations) < 2):
        text = f"{by} is of several networks, and {of} gives one: leave it out"
        yield where(name, "teachers", "by"), text
    elif gives == "each" and by == "degradation" and raw.get("train_on") == "clean":
        text = f"{of} has a network for each degradation, and clean images have none; all can teach: by: mean"
        yield where(name, "teachers"), text


def _merged(name: str, raw: Mapping[str, Any], table: Table) -> Iterator[Problem]:
    for key in ("teachers", "of", "train_on"):
        if raw.get(key) is not None:
            yield where(name, key), "is not for a merged method, which is not trained: with train_on it is"
    start = raw["start"]
    yield from _merge(name, start, table)
    told = start.get("recalibrate") == "per_degradation"
    if told and raw.get("checkpoint") is not None:
        yield where(name, "checkpoint"), "is one network, and per_degradation merges one for each degradation"
    if told and raw.get("inference") is None:
        text = "per_degradation gives a network for each degradation: say inference: own, which is told which it is, "
        yield where(name, "start", "recalibrate"), text + "or router, which sees it in the image"
    way, bands = way_of(raw), _bands(table.settings.get(str(start.get("of", EXPERTS)), {}))
    if told and bands > 1 and way is not None and not way.facts["levels"]:
        text = f"{way.name} knows no levels, and {start['of']} has {bands} bands of them: say router, or bands: 1 there"
        yield where(name, "inference"), text
    yield from _inference(name, raw, table, several=told)


def _merge(name: str, start: Mapping[str, Any], table: Table) -> Iterator[Problem]:
    if not isinstance(start.get("merge"), str):
        yield where(name, "start"), "needs merge: the merging method, like {merge: average, of: " + EXPERTS + "}"
        return
    of = start.get("of", EXPERTS)
    if not isinstance(of, str):
        yield where(name, "start", "of"), "must be the name of a method"
        return
    raw = table.given.get(of, {})
    if form_of(raw) != "trained":
        trained = ", ".join(n for n, r in table.given.items() if form_of(r) == "trained" and n != name)
        yield where(name, "start", "of"), f"{of} is not trained, and only what is can be merged; these are: {trained}"
        return
    from fusiondistill.merging import MERGING

    method, one = start["merge"], table.gives(of) == "one"
    if one and method in MERGING and not MERGING[method].facts["single"]:
        single = ", ".join(entry.name for entry in MERGING.values() if entry.facts["single"])
        yield where(name, "start", "merge"), f"{of} is one network, and {method} merges several; of one: {single}"
        return
    if not one and method in MERGING and (check := MERGING[method].facts.get("check")):
        with contextlib.suppress(ValidationError):  # what is wrong with a parameter alone is said there
            known = {key: start[key] for key in start if key in MERGING[method].parameters.model_fields}
            if problem := check(MERGING[method].resolve(known), table.degradations):
                yield where(name, "start"), problem
    if method in MERGING and "base" in MERGING[method].facts.get("needs", ()) and not has_base(raw, table):
        text = f"{method} needs the network that all of {of} started from, and these start from {raw.get('start')}"
        yield where(name, "start", "merge"), text


def has_base(raw: Mapping[str, Any], table: Table) -> bool:
    """Whether the networks of a method trained per degradation all start from the same one."""
    start = raw.get("start")
    one = isinstance(start, str) and start != RANDOM and (start == PRETRAINED or table.gives(start) == "one")
    return one or isinstance(start, Mapping)


def _combined(name: str, raw: Mapping[str, Any], table: Table) -> Iterator[Problem]:
    if raw.get("inference") is None:
        yield where(name, "inference"), f"is missing: how the networks of {raw['of']} answer, like vote"
    gives = table.gives(raw["of"]) if isinstance(raw["of"], str) else ""
    if gives == "combined":
        yield where(name, "of"), f"{raw['of']} answers with networks of another method: name that one"
    elif gives == "one" and raw.get("inference") is not None and not _of_one_network(raw):
        yield where(name, "of"), f"{raw['of']} gives one network, and there is nothing to combine"
    elif gives:
        yield from _inference(name, raw, table, several=gives == "each")


def way_of(raw: Mapping[str, Any]) -> Any:
    """The way of inference that a method names; None where it names none that is there."""
    from fusiondistill.inference import INFERENCE

    said = raw.get("inference")
    name = said.get("name") if isinstance(said, Mapping) else said
    return INFERENCE.get(name) if isinstance(name, str) else None


def _of_one_network(raw: Mapping[str, Any]) -> bool:
    """Whether a method's way of inference is one of a single network."""
    way = way_of(raw)
    return way is not None and way.one


def _inference(name: str, raw: Mapping[str, Any], table: Table, *, several: bool) -> Iterator[Problem]:
    """A way of inference that does not go with the networks that a method gives."""
    if raw.get("inference") is None:
        return
    way = way_of(raw)
    if way is not None and way.one and several:
        text = f"{way.name} is how one network answers, and this method gives one for each degradation"
        yield where(name, "inference"), text
    elif not several and not _of_one_network(raw):
        more = ""
        if way is not None and way.fits:
            more = f": say of: {EXPERTS}, or a merged start with recalibrate: per_degradation"
        yield where(name, "inference"), f"is for several networks, and this method gives one{more}"


def _circles(table: Table) -> Iterator[Problem]:
    """Methods that rest on themselves; a circle is told once, at a method that the config defines if it has one."""
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> Iterator[Problem]:
        for keys, other in _references(table.given[name]):
            if other in path:
                circle = (*path[path.index(other) :], other)
                yield where(name, *keys), f"goes round in a circle: {' -> '.join(circle)}"
            elif other not in done:
                yield from walk(other, (*path, other))
        done.add(name)

    for name in sorted(table.given, key=lambda name: name in METHODS):
        if name not in done:
            yield from walk(name, (name,))
