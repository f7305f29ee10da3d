"""Reads untrusted YAML in bounded time: plain values, with the line of each key. Writes what it reads as the same.

Numbers are those of YAML 1.2, as they are usually written: ``1e-3`` is a number, ``010`` is ten, ``12:30`` is a text.
Dates are texts, too. (PyYAML follows YAML 1.1: there ``1e-3`` is a text, ``010`` eight and ``12:30`` seven hundred
fifty.)

It refuses tags other than YAML's own, anchors (a few lines of which can make gigabytes), repeated keys, and values that
are so long or nested so deeply that reading them takes long.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fusiondistill.data.names import is_text

__all__ = ["Location", "YAMLProblem", "mapping", "read", "read_text", "write"]

Location = tuple[str | int, ...]

MOST_BYTES = 100_000
MOST_SCALAR = 1_000
"""Characters of one value: Python refuses much longer numbers, and PyYAML takes for ever on one form of them."""
MOST_DEPTH = 50


class YAMLProblem(ValueError):
    """A mistake in a text that should be YAML, with its line (0: the whole file)."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.line = line


def mapping(value: Any) -> dict[Any, Any]:
    """The value, if it is a mapping; else an empty one, for content that is not checked yet."""
    return value if isinstance(value, dict) else {}


def read_text(path: Path) -> str:
    """The text of a file of at most 100,000 bytes.

    Raises:
        YAMLProblem: the file is larger, not UTF-8, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise YAMLProblem(f"{path.stat().st_size:,} bytes: at most {MOST_BYTES:,} are read", 0)
        return raw.decode()
    except UnicodeDecodeError as error:
        raise YAMLProblem(f"not UTF-8 text: {error}", 0) from error
    except OSError as error:
        raise YAMLProblem(f"cannot be read: {error.strerror}", 0) from error


def read(text: str) -> tuple[Any, dict[Location, int]]:
    """The content ({} if there is none) and the line of every key.

    Raises:
        YAMLProblem: the text is not YAML, or holds something that is refused.
    """
    try:
        return _read(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = ", ".join(filter(None, (getattr(error, "context", ""), getattr(error, "problem", "")))) or str(error)
        raise YAMLProblem(f"not valid YAML: {problem}", mark.line + 1 if mark else 1) from error
    except (ValueError, OverflowError, TypeError) as error:  # an impossible number
        raise YAMLProblem(f"not valid YAML: {error}", 1) from error


def _read(text: str) -> tuple[Any, dict[Location, int]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Location, int] = {}
        if node is None:
            return {}, lines
        _walk(node, (), lines)
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0o[0-7][0-7_]*|0b[01][01_]*")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_REPLACED = ("int", "float", "timestamp")
"""Kinds of plain values that PyYAML recognises by YAML 1.1's rules."""


class _Loader(yaml.SafeLoader):
    """Checks each node before it is made."""

    depth = 0
    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own attribute
        first: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] not in _REPLACED]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _mistaken(event, "aliases (*name) are not supported")
        if self.depth > MOST_DEPTH:
            raise _mistaken(event, "nested too deeply")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MOST_SCALAR:
            raise _mistaken(event, f"a value of {len(event.value):,} characters, at most {MOST_SCALAR:,} are read")
        if isinstance(event, yaml.ScalarEvent) and not is_text(event.value):
            raise _mistaken(event, "half a character (\\ud800 to \\udfff), which is no text")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, {"0x": 16, "0o": 8, "0b": 2}.get(text[:2], 10))


for _tag, _form in (("int", _INTEGER), ("float", _FLOAT)):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_form.pattern})$"), list("-+.0123456789")
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


class _Dumper(yaml.SafeDumper):
    """Quotes what :class:`_Loader` would take for a number, and repeats what is there twice: no anchors."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own attribute
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()),
            *_Loader.yaml_implicit_resolvers.get(first, ()),
        ]
        for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **_Loader.yaml_implicit_resolvers}
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(content: Any) -> str:
    """Plain values as YAML that :func:`read` reads as these; the innermost mappings and lists take a line each."""
    form: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 100, "allow_unicode": True}
    return str(yaml.dump(content, Dumper=_Dumper, **form))


def _mistaken(place: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _walk(node: yaml.Node, location: Location, lines: dict[Location, int]) -> None:
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _mistaken(key, "a key must be plain text")
            key.tag = "tag:yaml.org,2002:str"  # also what YAML takes for a number or a truth value
            if key.value in seen:
                raise _mistaken(key, f"{key.value!r} is given twice")
            seen.add(key.value)
            lines[(*location, key.value)] = key.start_mark.line + 1
            _walk(value, (*location, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _walk(value, (*location, i), lines)
