"""Every key of a config as text, sections nested: type, default, range, meaning. ``fusiondistill list config``.

It is read off the models of the config, like the schema (:mod:`fusiondistill.config_schema`). Nothing here imports
torch.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fusiondistill.catalogue import WIDTH, parameter_text, value_text, wrapped
from fusiondistill.config import Config, DataConfig, ModelConfig
from fusiondistill.degradation_config import DegradationConfig
from fusiondistill.loss import Loss
from fusiondistill.methods import METHODS, Combined, Inference, Merge, Merged, Trained
from fusiondistill.recipe import Recipe
from fusiondistill.recipes import RECIPES
from fusiondistill.registry import close_to
from fusiondistill.resolution import resolve
from fusiondistill.safe_yaml import mapping

__all__ = ["Key", "config_keys", "config_lines"]

METHOD = "METHOD"
"""Stands for the name of a method in the path of a key."""
_ENTRIES: dict[type[BaseModel], tuple[str, str]] = {
    DataConfig: ("PARAMETER", "of the source: `fusiondistill list sources`"),
    ModelConfig: ("PARAMETER", "of the network: `fusiondistill list networks`"),
    DegradationConfig: ("PARAMETER", "of the degradation: `fusiondistill list degradations`"),
    Merge: ("PARAMETER", "of the merging method: `fusiondistill list merging`"),
    Inference: ("PARAMETER", "of the way of inference: `fusiondistill list inference`"),
    Loss: ("TERM", "(number, at least 0), or {weight: ..., PARAMETER: ...}: `fusiondistill list losses`; cross-entropy "
                   "(ce) is 1 where it is not named"),
}  # fmt: skip
_SECTIONS = ("data", "model", "evaluation", "resources")
_FIRST = ("start", "train_on", "teachers", "of", "inference", "checkpoint", "title", "description")
"""The keys of a method that say what it is; those of its recipe follow."""

_MORE = (
    "`list config KEY`, like base.optimizer, or a word shows a part; `list config --schema` writes the JSON Schema for "
    "editors; `validate CONFIG --show` fills in the defaults of a config."
)


@dataclass(frozen=True)
class Key:
    """A key of a config.

    Attributes:
        path: its parts, from the section down.
        text: name, type, default, range and meaning.
    """

    path: tuple[str, ...]
    text: str

    def lines(self, width: int) -> list[str]:
        """The text, indented by its depth."""
        indent = "  " * (len(self.path) - 1)
        return [indent + line for line in wrapped(self.text, width - len(indent))]


def config_keys(row: str = "") -> Iterator[Key]:
    """Every key, each section before its keys.

    Args:
        row: a built-in method, whose own defaults stand at the keys of a method; "": what they depend on.
    """
    for key, field in Config.model_fields.items():
        if key == "table":
            yield from _methods(row)
        else:
            yield Key((key,), parameter_text(key, field, "" if key in (*_SECTIONS, "methods") else None))
            yield from _below((key,), field)


def _methods(row: str) -> Iterator[Key]:
    """The keys of a method's section."""
    rows = ", ".join(METHODS)
    yield Key(
        (METHOD,),
        f"{METHOD} (mapping): settings laid over a built-in row ({rows}). A key that is null keeps its "
        "value; start, teachers and inference are taken away by null",
    )
    recipes = " or ".join(RECIPES)
    yield Key((METHOD, "recipe"), f"recipe ({recipes}) = null: the recipe whose defaults it has; default: the config's")
    fields = {**Merged.model_fields, **Trained.model_fields, "of": Combined.model_fields["of"]}
    for key in dict.fromkeys([*_FIRST, *fields]):
        yield from _key((METHOD, key), fields[key], resolve({}).settings.get(row, {}), row)
    like = f"define (mapping): your own methods, name -> what {METHOD} has, and like"
    yield Key(("define",), like)
    yield Key(("define", "like"), "like (text) = null: the method that it inherits its settings from")


def _key(path: tuple[str, ...], field: FieldInfo, said: Mapping[str, Any], row: str) -> Iterator[Key]:
    """A key of a method and those below it; ``said`` are the row's own settings at this place."""
    key, models = path[-1], _models(field.annotation)
    default = None
    if key in said and not (isinstance(said[key], Mapping) and models and Loss not in models):
        default = f" = {value_text(said[key])}"
    elif field.is_required() and path[1] in Recipe.model_fields:
        default = "" if models else ", by the recipe"
    elif key in said or (row and field.is_required()):
        default = ""
    yield Key(path, parameter_text(key, field, default))
    for model in models:
        for name, one in _fields(model).items():
            yield from _key((*path, name), one, mapping(said.get(key)), row)
        yield from _entry(path, model)


def _below(path: tuple[str, ...], field: FieldInfo) -> Iterator[Key]:
    for model in _models(field.annotation):
        for name, one in _fields(model).items():
            yield Key((*path, name), parameter_text(name, one))
            inner = (*path, name, "KEY") if name == "space" else (*path, name)
            if name == "space":
                yield Key(inner, "KEY (mapping): exactly one of")
            yield from _below(inner, one)
        yield from _entry(path, model)


def _entry(path: tuple[str, ...], model: type[BaseModel]) -> Iterator[Key]:
    if model in _ENTRIES:
        name, text = _ENTRIES[model]
        yield Key((*path, name), f"{name}{'' if text.startswith('(') else ':'} {text}")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by their names in YAML, its own before those that it inherits."""
    if model is Loss:
        return {}
    own = sorted(model.model_fields.items(), key=lambda one: one[0] not in model.__annotations__)
    return {field.alias or name: field for name, field in own}


def config_lines(asked: str = "", *, width: int = WIDTH) -> Iterator[str]:
    """The lines of ``fusiondistill list config``.

    Args:
        asked: a dotted key (``base.optimizer``), which keys below it belong to, or else a word that a key or its
            meaning has; "": all.
        width: of a line.

    Raises:
        ValueError: there is no such key, and none has that word.
    """
    first, *rest = asked.split(".")
    row = first if first in METHODS else ""
    if first == "define" and rest:
        first, rest = METHOD, rest[1:]
    keys = list(config_keys(row))
    path = (METHOD if row else first, *rest)
    chosen = [key for key in keys if key.path[: len(path)] == path] if asked else keys
    chosen = chosen or [key for key in keys if asked.lower() in f"{'.'.join(key.path)} {key.text}".lower()]
    if not chosen:
        known = tuple(".".join(key.path) for key in keys)
        raise ValueError(f"no key {asked!r}{close_to(asked, known, listed=False)}; `fusiondistill list config` has all")
    for number, key in enumerate(chosen):
        previous = chosen[number - 1].path if number else ()
        for depth in range(1, len(key.path)):  # the sections that it stands in
            if previous[:depth] != key.path[:depth]:
                yield f"{'  ' * (depth - 1)}{row if row and depth == 1 else key.path[depth - 1]}:"
        text = key.text.replace(METHOD, row, 1) if row and key.path == (METHOD,) else key.text
        yield from Key(key.path, text).lines(width)
    if not asked:
        yield ""
        yield from textwrap.wrap(_MORE, width)
