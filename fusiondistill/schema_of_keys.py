"""JSON Schema of dotted keys: the space of a search, the axes and bundles of a sweep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fusiondistill.config import Dimension
from fusiondistill.schema_of_entries import REF, Schema, literal

__all__ = ["one_form", "search_space", "sweep"]

_OLD = {
    "fusion.method": "start.merge",
    "fusion.recalibrate": "start.recalibrate",
    "loss.temperature": "loss.kd.temperature",
}
_FORMS = tuple(Dimension.model_fields)
_NOT_SEARCHED = ("epochs", "checkpoint")
_SHARED = ("experiment", "sweep", "resources", "plugins", "seeds", "methods")


def search_space(recipe: Iterable[str], defs: Mapping[str, Schema]) -> Schema:
    """``space:``, of which every key of a recipe may be a dimension, by its dotted name or below one another.

    Args:
        recipe: keys of a recipe.
        defs: definitions of a config; ``Method`` is that of a method's section.
    """
    keys: dict[str, Schema] = {}

    def add(key: str, *place: str) -> None:
        schema: Any = defs
        for part in place:
            schema = schema[int(part) if isinstance(schema, list) else part]
        pointer = "/".join(part.replace("~", "~0").replace("/", "~1") for part in place)
        keys[key] = {"$ref": f"{REF}{pointer}", **{k: schema[k] for k in ("description",) if k in schema}}

    for name in recipe:
        if name == "loss":
            for term, one in defs["Loss"]["properties"].items():
                if not one.get("deprecated"):
                    place = ("Loss", "properties", term, "anyOf", "1", "properties")
                    for key in one["anyOf"][1]["properties"]:
                        add(f"loss.{term}" if key == "weight" else f"loss.{term}.{key}", *place, key)
        elif name in ("optimizer", "schedule"):
            for key in defs[name.title()]["properties"]:
                add(f"{name}.{key}", name.title(), "properties", key)
        elif name not in _NOT_SEARCHED:
            add(name, "Method", "properties", name)
    for key in defs["Merge"]["properties"]:
        if key not in ("of", "images"):
            add(f"start.{key}", "Merge", "properties", key)
    old = {before: {**_node(now, keys), "deprecated": True, "description": f"is {now} now"}
           for before, now in _OLD.items() if now in keys}  # fmt: skip
    above = dict.fromkeys(key[: dot.start()] for key in keys for dot in re.finditer(r"\.", key))
    names = dict.fromkeys([*keys, *above])
    return {
        "type": "object",
        "minProperties": 1,
        "properties": {**{name: _node(name, keys) for name in names}, **old},
        "additionalProperties": False,
    }


def _node(name: str, keys: Mapping[str, Schema]) -> Schema:
    """A dimension; or the mapping, perhaps beside its form, that holds the dimensions below a key."""
    below = sorted({key[len(name) + 1 :].split(".")[0] for key in keys if key.startswith(f"{name}.")})
    forms = _forms(keys[name]) if name in keys else {}
    told = {"description": keys[name]["description"]} if "description" in keys.get(name, {}) else {}
    if not below:
        return {**told, "$ref": f"{REF}Dimension", "properties": forms}
    whole = {**{form: {"$ref": f"{REF}Dimension/properties/{form}", **one} for form, one in forms.items()}}
    whole |= {part: _node(f"{name}.{part}", keys) for part in below}
    limited = {"type": "object", "properties": whole, "minProperties": 1, "additionalProperties": False}
    return {**told, **({"$ref": f"{REF}OneForm"} if forms else {}), **limited}


def one_form() -> Schema:
    """Of the forms of a dimension at most one, also beside dimensions below it."""
    forms: list[Schema] = [{"required": [form]} for form in _FORMS]
    return {"oneOf": [*forms, {"not": {"anyOf": forms}}]}


def _forms(key: Schema) -> dict[str, Schema]:
    """What the forms of a dimension may hold for a key: values that the key admits."""
    value = {"$ref": key["$ref"]}
    ends = {"prefixItems": [value, value]}
    return {form: {"items": value} if form in ("choice", "grid") else ends for form in _FORMS}


def sweep(keys: Mapping[str, Schema], rows: Sequence[str], defs: Mapping[str, Schema]) -> tuple[Schema, Schema]:
    """``sweep:``, whose axes are keys, sections, or the user's own names for bundles of several keys.

    Args:
        keys: key of a config -> its schema, without those of methods.
        rows: the built-in methods.
        defs: definitions of a config.

    Returns:
        The schema, and that of ``Bundle``, which it refers to.
    """
    free = {key: _properties(schema, defs) for key, schema in keys.items() if key not in _SHARED}
    methods, of_method = _one_of(rows), defs["Method"]["properties"]
    values = {f"^{key}$": {"$ref": f"#/properties/{key}"} for key in free}
    for key, own in free.items():
        values |= {rf"^{key}\.{literal(name)}$": {"$ref": place} for name, place in own.items()}
    values[f"^({methods})$"] = {"$ref": f"{REF}Method"}
    values |= {rf"^({methods})\.{name}$": {"$ref": f"{REF}Method/properties/{name}"} for name in of_method}
    known = [rf"^({methods})(\.({_one_of(of_method)})(\..*)?)?$", *_admitted(free)]
    closed = _one_of([*free, *_SHARED, *rows])
    names = {"anyOf": [*({"pattern": one} for one in known), {"not": {"pattern": rf"^({closed})(\.|$)"}}]}
    bundle = {
        "type": "object", "minProperties": 1, "propertyNames": names, "patternProperties": values,
        "description": "keys of the config, dotted or not, that change together",
    }  # fmt: skip
    reference = {"$ref": f"{REF}Bundle"}
    several = {"anyOf": [{"type": "array", "minItems": 1, "items": reference},
                         {"type": "object", "minProperties": 1, "additionalProperties": reference}]}  # fmt: skip
    return {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"$ref": f"{REF}Bundle/propertyNames"},
        "patternProperties": {
            **{key: {"type": "array", "minItems": 1, "uniqueItems": True, "items": one} for key, one in values.items()},
            rf"^(?!({closed}|define)(\.|$))[^.]*$": several,
            r"\.": {"type": "array", "minItems": 1},
        },
    }, bundle


def _one_of(names: Iterable[str]) -> str:
    return "|".join(map(literal, names))


def _admitted(sections: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """A pattern for each section's dotted keys."""
    for key, own in sections.items():
        yield rf"^{key}(\.({_one_of(own)})(\..*)?)?$" if own else rf"^{key}(\..*)?$"


def _properties(schema: Schema, defs: Mapping[str, Schema]) -> dict[str, str]:
    """Key of a section -> where its schema stands, through references and shorthands; {} for a value."""
    name = str(schema.get("$ref")).removeprefix(REF)
    if name in defs:
        return {key: f"{REF}{name}/properties/{key}" for key in defs[name].get("properties", ())}
    return next((found for one in schema.get("anyOf", ()) if (found := _properties(one, defs))), {})
