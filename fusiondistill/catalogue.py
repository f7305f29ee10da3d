"""What is registered, as text: names, a line each, parameters with defaults and ranges, sources."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fusiondistill.registry import Entry, Registry, close_to

__all__ = ["catalogue", "described", "described_parameter"]

WIDTH = 118
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of"}


def catalogue(registries: Mapping[str, Registry], kind: str | None = None) -> Iterator[str]:
    """The lines of ``fusiondistill list``.

    Args:
        registries: by the name of their folder.
        kind: the name of a folder, or a kind in words; None: all, with long notes cut.

    Raises:
        ValueError: there is no such kind; the message has the nearest.
    """
    chosen = {folder: r for folder, r in registries.items() if kind in (None, folder, r.kind)}
    if not chosen:
        raise ValueError(f"nothing of the kind {kind!r} is registered{close_to(str(kind), tuple(registries))}")
    for number, (folder, registry) in enumerate(chosen.items()):
        yield from ("",) if number else ()
        yield folder
        for name in registry:
            yield from described(registry[name], whole=kind is not None)


def described(entry: Entry, *, whole: bool = True) -> Iterator[str]:
    """The lines about one entry, with its parameters; ``whole``: long notes go on in further lines."""
    yield f"  {entry.name:16}  {entry.summary}"
    source = (f"source: {entry.source}",) if entry.source else ()
    plugin = (f"plugin: {entry.plugin.path}",) if entry.plugin else ()
    for note in (*entry.notes(), *source, *plugin):
        if whole:
            yield from textwrap.wrap(note, WIDTH, initial_indent=" " * 20, subsequent_indent=" " * 22)
        else:
            yield " " * 20 + textwrap.shorten(note, WIDTH - 20, placeholder=" ...")
    for key in entry.parameters.model_fields:
        yield " " * 20 + described_parameter(entry, key)


def described_parameter(entry: Entry, key: str) -> str:
    """A parameter in one line: name, type, default, range, meaning."""
    field = entry.parameters.model_fields[key]
    default = "" if field.is_required() else f" = {field.default}"
    bounds = [
        f"{word} {getattr(part, bound)}"
        for part in field.metadata
        for bound, word in _BOUNDS.items()
        if getattr(part, bound, None) is not None
    ]
    extent = f", {', '.join(bounds)}" if bounds else ""
    meaning = f": {field.description}" if field.description else ""
    return f"{key} ({_type_name(field.annotation)}){default}{extent}{meaning}"


def _type_name(annotation: Any) -> str:
    """A type in words: ``float or nothing``, ``list of float``, ``mapping of str to float``."""
    origin = get_origin(annotation)
    if origin is None:
        return "nothing" if annotation in (None, type(None)) else getattr(annotation, "__name__", str(annotation))
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
