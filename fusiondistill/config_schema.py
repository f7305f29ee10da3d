"""The JSON Schema of a config file, for editors: what the loader takes, with short forms and registered entries.

It is made from the models of the config and the parameters of the registries. It says keys, types, ranges and names.
Rules between keys, files that must be there, and values that only the loader turns into others (a number in quotes) are
not in it: ``fusiondistill validate`` checks them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fusiondistill.config import Config, DataConfig, ModelConfig
from fusiondistill.methods import METHODS, Combined, Merged, Trained
from fusiondistill.recipe import Recipe
from fusiondistill.schema_of_entries import (
    REF,
    Schema,
    degradations,
    entries_of,
    loss,
    model_schemas,
    networks,
    with_entries,
)
from fusiondistill.schema_of_keys import one_form, search_space, sweep

__all__ = ["SCHEMA_FILE", "config_schema", "schema_text"]

SCHEMA_FILE = "config.schema.json"
"""The file among the shipped configs that holds the schema of the built-in entries."""
_METHOD = "^[a-z][a-z0-9_-]*$"
_NOTHING: Schema = {
    "description": "none, null, no, off or false: nothing",
    "enum": [None, False, *(form for word in ("none", "null", "no", "off", "false")
                            for form in (word, word.title(), word.upper()))],
}  # fmt: skip
_POSITIVE: Schema = {"type": "number", "exclusiveMinimum": 0}


def schema_text() -> str:
    """The schema as the text of a file."""
    return json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n"


def config_schema() -> Schema:
    """The schema, of draft 2020-12, with the entries of the plugins that are loaded."""
    defs = model_schemas((Config,))
    config = defs.pop("Config")
    trained, merged, combined = (defs.pop(of.__name__) for of in (Trained, Merged, Combined))
    defs |= _of_entries(defs)
    for name in ("Optimizer", "Schedule"):
        defs[name].pop("required", None)  # laid over the defaults
    dimension = defs["Dimension"]["properties"]
    defs["Dimension"] |= {"minProperties": 1, "maxProperties": 1}
    for form in dimension.values():
        form |= {"anyOf": [{"minItems": 1, **one} for one in form.pop("anyOf") if one["type"] == "array"]}
        form.pop("default")
    rows = {**combined["properties"], **merged["properties"], **trained["properties"]}
    defs["Method"] = _row(rows, config)
    defs["OneForm"] = one_form()
    space = defs["SearchConfig"]["properties"]["space"]
    defs["SearchConfig"]["properties"]["space"] = {**_told(space), **search_space(Recipe.model_fields, defs)}
    keys = _keys(config["properties"], defs)
    free = {key: schema for key, schema in keys.items() if key not in ("define", "sweep")}
    axes, defs["Bundle"] = sweep(free, tuple(METHODS), defs)
    keys["sweep"] = {**_told(keys["sweep"]), "anyOf": [axes, _NOTHING]}
    method = {"$ref": f"{REF}Method"}
    section = {"anyOf": [{**method, "properties": {"like": False}}, {"type": "null"}]}
    rows = {name: {"description": raw["description"], **section} for name, raw in METHODS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fusiondistill config",
        "description": "Written by `fusiondistill list config --schema`; with --plugin FILE it has a plugin's entries, "
        "too. Rules between keys and the presence of files are checked by `fusiondistill validate`.",
        "type": "object",
        "properties": {**keys, **rows},
        "required": ["experiment"],
        "additionalProperties": False,
        "$defs": defs,
    }


def _told(schema: Mapping[str, Any]) -> Schema:
    """The description and the default of a schema."""
    return {key: schema[key] for key in ("description", "default") if key in schema}


def _or(schema: Schema, *others: Schema) -> Schema:
    """A key that also takes other forms."""
    rest = {key: value for key, value in schema.items() if key not in ("description", "default")}
    forms = rest["anyOf"] if set(rest) == {"anyOf"} else [rest]
    return {**_told(schema), "anyOf": [*forms, *(one for one in others if one not in forms)]}


def _listed(entry: Schema) -> Schema:
    """Names of a list in one text, with commas between them."""
    one = "|".join(entry["enum"]) if "enum" in entry else r"[^,\s][^,]*"
    return {"type": "string", "pattern": rf"^\s*({one})\s*(,\s*({one})\s*)*$"}


def _of_entries(defs: Mapping[str, Schema]) -> dict[str, Schema]:
    """The definitions that name entries of registries."""
    from fusiondistill.inference import INFERENCE
    from fusiondistill.merging import MERGING
    from fusiondistill.sources import SOURCES

    data = defs["DataConfig"]
    own = dict(data["properties"])
    own["size"] = _or(own["size"], {"type": "integer", "minimum": 2, "maximum": 4096})
    default_network = ModelConfig.model_fields["name"].default
    return {
        "DataConfig": with_entries(
            {**data, "properties": own}, "name", entries_of(SOURCES, DataConfig.model_fields["name"].default)
        ),
        "ModelConfig": with_entries(defs["ModelConfig"], "name", networks(default_network)),
        "Merge": with_entries(defs["Merge"], "merge", entries_of(MERGING)),
        "Inference": with_entries(defs["Inference"], "name", entries_of(INFERENCE)),
        "DegradationConfig": degradations(defs["DegradationConfig"]),
        "Loss": loss(defs["Loss"]),
    }


def _row(own: Mapping[str, Schema], config: Mapping[str, Any]) -> Schema:
    """A method's section, or its mapping below ``define``: all keys of all forms, each of which null leaves alone."""
    from fusiondistill.inference import INFERENCE

    keys = dict(own)
    weights = {"type": "array", "items": _POSITIVE, "minItems": 1}
    by_class = {"type": "object", "additionalProperties": _POSITIVE, "minProperties": 1}
    keys["class_weights"] = {
        **_told(keys["class_weights"]),
        "anyOf": [{"enum": ["none", "balanced"]}, weights, by_class],
    }
    keys["inference"] = _or(own["inference"], {"enum": list(INFERENCE)})
    keys["teachers"] = _or(own["teachers"], {"type": "string"})
    keys["checkpoint"] = _or(own["checkpoint"], {"const": False})
    keys["resized_crop"] = _or(own["resized_crop"], {"type": "number", "exclusiveMinimum": 0, "maximum": 1})
    keys["optimizer"] = _or(own["optimizer"], _own_names("Optimizer", "name"))
    keys["schedule"] = _or(own["schedule"], _own_names("Schedule", "name"))
    of_recipe = {**config["properties"]["recipe"], "description": "defaults of its recipe; default: the config's"}
    like = {"type": "string", "description": "the method that it inherits its settings from; below define only"}
    keys = {"like": like, **keys, "recipe": of_recipe}
    return {
        "description": "a row of the table",
        "type": "object",
        "properties": {key: _or(schema, {"type": "null"}) for key, schema in keys.items()},
        "additionalProperties": False,
    }


def _own_names(model: str, key: str) -> Schema:
    """A name that stands for a mapping."""
    return {"$ref": f"{REF}{model}/properties/{key}"}


def _keys(own: Mapping[str, Schema], defs: Mapping[str, Schema]) -> dict[str, Schema]:
    """The keys of a config beside its methods."""
    keys = {key: schema for key, schema in own.items() if key != "table"}
    for key in ("data", "model", "evaluation", "resources"):
        keys[key].pop("default", None)
    names: dict[str, Any] = {"enum": [one["const"] for one in defs["DegradationConfig"]["anyOf"][:-1]]}
    several = {"type": "string", "pattern": r"^\s*\d+\s*(\.\.\s*\d+\s*|(,\s*\d+\s*)+)$"}
    keys["seeds"] = _or({**keys["seeds"], "uniqueItems": True}, {"const": 0}, several)
    keys["data"] = _or(keys["data"], _own_names("DataConfig", "name"))
    keys["model"] = _or(keys["model"], _own_names("ModelConfig", "name"))
    keys["degradations"] = _or(keys["degradations"], _listed(names))
    keys["methods"] = _or(
        {**keys["methods"], "items": {"type": "string", "pattern": _METHOD}, "uniqueItems": True},
        _listed({}), {"type": "null"},
    )  # fmt: skip
    search = {"$ref": f"{REF}SearchConfig"}
    keys["search"] = {**_told(keys["search"]), "anyOf": [search, {"type": "array", "items": search}, _NOTHING]}
    keys["search"].pop("default")
    off = {**_NOTHING, "enum": _NOTHING["enum"][1:]}
    for key in ("recipe", "tracking", "plugins"):
        keys[key] = _or(keys[key], off)
    keys["plugins"]["anyOf"].append(_listed({}))
    measured = defs["EvaluationConfig"]["properties"]
    measured["unseen"] = _or(measured["unseen"], _listed(names), {"const": True}, off)
    measured["corruptions"] = _or(measured["corruptions"], off)
    start = defs["Merge"]["properties"]
    moved = {"method": start["merge"], **{key: start[key] for key in ("recalibrate", "images")}, "checkpoint": {}}
    return {
        **keys,
        "define": {
            "description": "your own methods, by name",
            "type": ["object", "null"],
            "propertyNames": {"pattern": _METHOD, "not": {"enum": list(METHODS)}},
            "additionalProperties": {"$ref": f"{REF}Method"},
        },
        "fusion": {
            "description": "the old name of modelsoups: {start: ...}",
            "deprecated": True,
            "type": ["object", "null"],
            "properties": moved,
            "additionalProperties": False,
        },
    }
