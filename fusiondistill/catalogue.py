"""What is registered, as text: names, a line each, parameters with defaults and ranges, sources."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from fusiondistill import NAME
from fusiondistill.registry import Entry, Registry, close_to

__all__ = [
    "USED",
    "catalogue",
    "described",
    "described_parameter",
    "for_each_source",
    "notes_of",
    "parameter_text",
    "value_text",
    "wrapped",
]

WIDTH = 80
INDENT = " " * 20
USED = {
    "degradations": "degradations: [NAME]",
    "sources": "data: {name: NAME, PARAMETER: ...}",
    "networks": "model: {name: NAME, PARAMETER: ...}",
    "losses": "loss: {NAME: WEIGHT}, or {NAME: {weight: ..., PARAMETER: ...}}",
    "merging": "start: {merge: NAME, of: expert, PARAMETER: ...}",
    "inference": "inference: NAME, or {name: NAME, PARAMETER: ...}",
}
"""How a config names an entry of each kind."""
_TYPES = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "NoneType": "nothing",
          "Any": "anything"}  # fmt: skip
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of"}


def catalogue(
    registries: Mapping[str, Registry[Any]], kind: str | None = None, name: str | None = None, *, width: int = WIDTH
) -> Iterator[str]:
    """The lines of ``fusiondistill list``.

    Args:
        registries: by the name of their folder.
        kind: the name of a folder, or a kind in words; None: all, with long notes cut.
        name: of the only entry to show; None: all of the kind.
        width: of a line; a long path or word may go beyond it.

    Raises:
        ValueError: there is no such kind or entry; the message has the nearest.
    """
    chosen = {folder: r for folder, r in registries.items() if kind in (None, folder, r.kind)}
    if not chosen:
        raise ValueError(f"nothing of the kind {kind!r} is registered{close_to(str(kind), (*registries, 'config'))}")
    for number, (folder, registry) in enumerate(chosen.items()):
        yield from ("",) if number else ()
        yield f"{folder}  ({USED[folder]})" if folder in USED else folder
        for entry in [registry.find(name)] if name else map(registry.__getitem__, registry):
            yield from described(entry, whole=kind is not None, width=width)
        if kind is not None and folder == "sources":
            yield from _for_each_source_lines(width)
        if kind is not None:
            yield f"\nYour own: python -c 'import {NAME}; help({NAME}.{folder.upper()}.register)'"


def for_each_source() -> Iterator[str]:
    """The keys that stand beside each data source, in one line each: name, type, default, range, meaning."""
    from fusiondistill.data.arrangement import Arrangement

    return (parameter_text(key, field) for key, field in Arrangement.model_fields.items())


def _for_each_source_lines(width: int) -> Iterator[str]:
    name = "  each of them"
    for text in for_each_source():
        lines = wrapped(text, width - len(INDENT))
        yield f"{name:{len(INDENT)}}{lines[0]}"
        yield from (INDENT + line for line in lines[1:])
        name = ""


def described(entry: Entry, *, whole: bool = True, width: int = WIDTH) -> Iterator[str]:
    """The lines about one entry, with its parameters; ``whole``: long notes go on in further lines."""
    body = width - len(INDENT)
    name = f"  {entry.name}"
    first, *more = textwrap.wrap(entry.summary, body)
    yield from (f"{name:{len(INDENT)}}{first}",) if len(name) < len(INDENT) else (name, INDENT + first)
    yield from (INDENT + line for line in more)
    plugin = (f"plugin: {entry.plugin.path}",) if entry.plugin else ()
    for note in notes_of(entry):
        lines = wrapped(note, body) if whole else [textwrap.shorten(note, body, placeholder=" ...")]
        yield from (INDENT + line for line in lines)
    for text in (*plugin, *(described_parameter(entry, key) for key in entry.parameters.model_fields)):
        yield from (INDENT + line for line in wrapped(text, body))


def notes_of(entry: Entry) -> tuple[str, ...]:
    """The facts about an entry and its source, in one line each."""
    return (*entry.notes(), *((f"source: {entry.source}",) if entry.source else ()))


def wrapped(text: str, width: int, indent: str = "  ") -> list[str]:
    """A text in lines, the second one on indented; a long path or word may go beyond the width."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def described_parameter(entry: Entry, key: str) -> str:
    """A parameter in one line: name, type, default, range, meaning."""
    return parameter_text(key, entry.parameters.model_fields[key])


def parameter_text(key: str, field: FieldInfo, default: str | None = None) -> str:
    """A field of a model in one line: name, type, default, range, meaning.

    Args:
        default: what stands for the default, like ``, by the recipe``; left out, that of the field.
    """
    if default is None:
        default = ", has to be given" if field.is_required() else f" = {value_text(field.get_default())}"
    bounds = [
        f"{word} {getattr(part, bound)}"
        for part in _constraints(field.annotation, field.metadata)
        for bound, word in _BOUNDS.items()
        if getattr(part, bound, None) is not None
    ]
    kind = _type_name(field.annotation)
    each = "each " if kind.startswith("list of") else ""
    extent = f", {each}{', '.join(dict.fromkeys(bounds))}" if bounds else ""
    meaning = f": {field.description}" if field.description else ""
    return f"{key} ({kind}){default}{extent}{meaning}"


def _constraints(annotation: Any, own: Iterable[Any] = ()) -> Iterator[Any]:
    """What limits a value, or the parts that it has."""
    for one in own:
        yield from one.metadata if isinstance(one, FieldInfo) else (one,)
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from _constraints(parts[0], parts[1:])
    elif get_origin(annotation) is not Literal:
        for part in parts:
            yield from _constraints(part)


def value_text(value: Any) -> str:
    """A value as YAML has it, in one line."""
    plain = to_jsonable_python(value)
    if isinstance(plain, list):
        return f"[{', '.join(map(value_text, plain))}]"
    if isinstance(plain, dict):
        return f"{{{', '.join(f'{key}: {value_text(one)}' for key, one in plain.items())}}}"
    return "null" if plain is None else str(plain).lower() if isinstance(plain, bool) else str(plain) or "''"


def _type_name(annotation: Any) -> str:
    """A type in words: ``number or nothing``, ``list of number``, ``mapping of text to number``."""
    origin = get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    if origin is None:
        name = "NoneType" if annotation is None else getattr(annotation, "__name__", str(annotation))
        return _TYPES.get(name, name)
    parts = [part for part in get_args(annotation) if part is not Ellipsis]
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin is Annotated:
        return _type_name(parts[0])
    names = [_type_name(part) for part in parts]
    if origin in (Union, UnionType):
        return " or ".join(names)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(names) == 2:
        return f"mapping of {names[0]} to {names[1]}"
    return f"list of {' and '.join(dict.fromkeys(names))}" if origin in (tuple, list) else str(annotation)
