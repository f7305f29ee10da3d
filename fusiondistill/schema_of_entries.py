"""JSON Schema of what names an entry of a registry: the names, and of each its parameters.

A plugin's entries are in it where the plugin is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import models_json_schema

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.registry import Entry

__all__ = [
    "REF",
    "Named",
    "Schema",
    "degradations",
    "entries_of",
    "literal",
    "loss",
    "model_schemas",
    "networks",
    "with_entries",
]

Schema = dict[str, Any]
REF = "#/$defs/"
_LEVELS = r"^\s*-?[0-9]{1,9}\s*\.\.\s*-?[0-9]{1,9}\s*$"


class Named(NamedTuple):
    """What a name may be, and what stands beside it."""

    name: Schema
    parameters: Mapping[str, Schema]
    required: Sequence[str] = ()
    default: bool = False
    """Whether it is meant where the name is left out."""


def literal(text: str) -> str:
    """A pattern that is the text itself, in the regular expressions of JavaScript, which JSON Schema has."""
    return re.sub(r"[.*+?^${}()|\[\]\\]", r"\\\g<0>", text)


def model_schemas(models: Iterable[type[BaseModel]]) -> dict[str, Schema]:
    """Class name -> the schema of each model and of the models in it, without the titles that pydantic adds."""
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=f"{REF}{{model}}")
    return {name: _plain(schema) for name, schema in found.get("$defs", {}).items()}


def _plain(schema: Any) -> Any:
    """A schema without titles, and with descriptions as plain text; names of properties stay."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: _plain(one) for name, one in value.items()}
        elif key == "description" and isinstance(value, str):
            found[key] = " ".join(value.replace("``", "`").split("\n\n")[0].split())
        elif key in ("default", "enum", "const"):
            found[key] = value
        elif key != "title":
            found[key] = _plain(value)
    return found


def _parameters(entry: Entry) -> tuple[dict[str, Schema], list[str]]:
    """The parameters of an entry and which have to be given; a type that JSON Schema cannot say is left open."""
    model = entry.parameters
    try:
        schema = _inlined(_plain(model.model_json_schema()))
    except PydanticInvalidForJsonSchema:
        schema = {"properties": {name: {} for name in model.model_fields}}
    return schema.get("properties", {}), schema.get("required", [])


def _inlined(schema: Any, known: Mapping[str, Any] | None = None) -> Any:
    """A schema with what its references mean in their place; a plugin's types are small."""
    if isinstance(schema, list):
        return [_inlined(one, known) for one in schema]
    if not isinstance(schema, dict):
        return schema
    known = schema.get("$defs", known) or {}
    there = {**known.get(str(schema.get("$ref")).removeprefix(REF), {}), **schema}
    return {key: _inlined(value, known) for key, value in there.items() if key not in ("$ref", "$defs")}


def entries_of(registry: Mapping[str, Entry], default: str = "") -> list[Named]:
    """All entries of a registry."""
    return [
        Named({"const": name, "description": entry.summary}, *_parameters(entry), default=name == default)
        for name, entry in registry.items()
    ]


def networks(default: str) -> list[Named]:
    """All networks; of a provider with endless many those names that begin as its others do."""
    from fusiondistill.networks import NETWORKS

    found = []
    for entry in NETWORKS.values():
        names = [*entry.names()]
        name: Schema = {"enum": names, "description": entry.summary}
        if entry.facts["provides"]:
            same = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
            begin = literal("".join(letter for letter, _ in same))
            name = {
                "anyOf": [{"enum": names}, {"type": "string", "pattern": f"^{begin}"}],
                "description": entry.summary,
            }
        found.append(Named(name, *_parameters(entry), default=bool(entry.provides(default) is True)))
    return found


def with_entries(schema: Schema, key: str, entries: Sequence[Named]) -> Schema:
    """A mapping that names an entry by a key and has the entry's parameters beside its own keys.

    Every parameter is a property, for completion; which of them go with a name is said by a rule for each entry, in
    keywords that editors know from older drafts, too.
    """
    own = schema["properties"]
    parameters: dict[str, list[Schema]] = {}
    for entry in entries:
        for name, one in entry.parameters.items():
            if one not in parameters.setdefault(name, []):
                parameters[name].append(one)
    said = {name: given[0] if len(given) == 1 else _either(given) for name, given in parameters.items()}
    rules: dict[str, Schema] = {}
    for entry in entries:
        if not entry.parameters:
            continue
        then: Schema = {"propertyNames": {"enum": [*own, *entry.parameters]}}
        different = {name: one for name, one in entry.parameters.items() if len(parameters[name]) > 1}
        then |= {"properties": different} if different else {}
        then |= {"required": list(entry.required)} if entry.required else {}
        named: Schema = {"properties": {key: {k: v for k, v in entry.name.items() if k != "description"}}}
        rule = rules.setdefault(repr(then), {"if": {"anyOf": []}, "then": then})
        rule["if"]["anyOf"].append(named if entry.default else {**named, "required": [key]})
    with_parameters = [one for rule in rules.values() for one in rule["if"]["anyOf"]]
    plain = {"if": {"not": {"anyOf": with_parameters}}} if with_parameters else {"if": True}
    names = {**own[key], "anyOf": [entry.name for entry in entries]}
    names.pop("type", None)
    return {
        **schema,
        "type": "object",
        "properties": {**own, **said, key: names},
        "allOf": [*rules.values(), {**plain, "then": {"propertyNames": {"enum": list(own)}}}],
        "additionalProperties": False,
    }


def _either(schemas: Sequence[Schema]) -> Schema:
    """One of several parameters of the same name, with what is said of any of them."""
    told = dict.fromkeys(one["description"] for one in schemas if "description" in one)
    return {"anyOf": list(schemas), **({"description": ", or ".join(told)} if told else {})}


def degradations(schema: Schema) -> Schema:
    """An item of ``degradations``: a name, or a mapping with levels in the degradation's range."""
    label = {"pattern": "^[a-z][a-z0-9_]{0,39}$", "not": {"enum": ["average", "avg", "clean"]}}
    levels = {"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True}
    own = {
        **schema["properties"],
        "as": {**schema["properties"]["as"], "anyOf": [{"type": "string", **label}, {"type": "null"}]},
        "levels": {
            **schema["properties"]["levels"],
            "anyOf": [{"type": "string", "pattern": _LEVELS}, levels, {"type": "null"}],
        },
    }
    whole = with_entries({**schema, "properties": own}, "name", entries_of(DEGRADATIONS))
    for name, entry in DEGRADATIONS.items():
        admitted = {"items": {"minimum": entry.levels[0], "maximum": entry.levels[-1]}}
        rule = {"if": {"properties": {"name": {"const": name}}}, "then": {"properties": {"levels": admitted}}}
        whole["allOf"].append(rule)
    names = [{"const": name, "description": entry.summary} for name, entry in DEGRADATIONS.items()]
    return {"description": schema["description"], "anyOf": [*names, whole]}


def loss(schema: Schema) -> Schema:
    """A recipe's ``loss``: of each term a weight, or a mapping with the weight and the term's parameters."""
    from fusiondistill.losses import LOSSES, RAMPS

    weight = {"type": "number", "minimum": 0, "description": "0: the term is not computed"}
    part = {"type": "number", "minimum": 0, "maximum": 1, "default": 0}
    ramps = {key: {**part, "description": text} for key, text in RAMPS.items()}
    terms: dict[str, Schema] = {}
    for name, entry in LOSSES.items():
        keys = {"weight": weight, **ramps, **_parameters(entry)[0]}
        mapping = {"type": "object", "properties": keys, "additionalProperties": False}
        terms[name] = {"description": entry.summary, "anyOf": [{"type": "number", "minimum": 0}, mapping]}
    if "temperature" not in LOSSES:
        terms["temperature"] = {
            "type": "number", "exclusiveMinimum": 0, "deprecated": True,
            "description": "the old name of kd: {temperature: ...}",
        }  # fmt: skip
    return {
        "description": schema["description"],
        "type": "object",
        "properties": terms,
        "additionalProperties": False,
    }
