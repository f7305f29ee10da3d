"""The reference as Markdown, read off the objects that ``fusiondistill list`` shows. conf.py writes it at every build.

tests/test_docs.py checks without Sphinx that it has every key, entry, verb and exported name, each with a meaning.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

import fusiondistill
from fusiondistill.catalogue import USED, described_parameter, for_each_source, notes_of, value_text
from fusiondistill.config_keys import METHOD, config_keys
from fusiondistill.plugins import all_registries
from fusiondistill.recipes import RECIPES
from fusiondistill.registry import Entry

__all__ = ["PAGES", "commands", "exported", "verbs", "write"]

NOTE = "% Written by docs/reference_pages.py; changes here are lost.\n\n"
VALUES = {
    "__version__": "The version of the package, text like `0.2.0`.",
    "PAPER_DEGRADATIONS": "The names of the paper's four degradations, in the order of its tables; a tuple.",
    "METHODS": "The built-in rows of the table: name -> settings, as if written in a config; a mapping.",
}
"""Exported names that are values, which hold no docstring."""


BESIDE = {
    "fusiondistill.merging.At": "autoclass",
    "fusiondistill.checkpoints.card_of": "autofunction",
    "fusiondistill.plugins.read_plugins": "autofunction",
    "fusiondistill.plugins.load_plugins": "autofunction",
}
"""Public names of modules that pages use."""


def plain(text: str) -> str:
    """A docstring's or message's text for Markdown: roles become code, signs of Markdown stand for themselves."""
    text = re.sub(r":\w+(?::\w+)?:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    parts = text.split("`")
    outside = [re.sub(r"([*_<>\[\]|\\])", r"\\\1", part) for part in parts[::2]]
    inside = parts[1::2]
    return "".join(f"{one}`{code}`" for one, code in zip(outside, inside, strict=False)) + outside[-1]


def _name(text: str) -> str:
    """What a generated line calls its key: ``name (type) = default``, the first word as code."""
    key, _, rest = text.partition(" ")
    return f"`{key.rstrip(':')}`{':' if key.endswith(':') else ''} {plain(rest)}"


def config() -> str:
    """Every key of a config: path, type, default, range, meaning; and the defaults of each recipe."""
    lines = [
        "# Keys of a config\n",
        "Each key has its type, default, range and meaning. `fusiondistill list config KEY` shows a part of this page, "
        "with the defaults of a row: `fusiondistill list config base.optimizer`.\n",
        f"`{METHOD}` stands for the name of a row, `PARAMETER`, `TERM` and `KEY` for names that the text says.\n",
    ]
    for key in config_keys():
        if len(key.path) == 1:
            lines.append(f"\n## {key.path[0]}\n")
            lines.append(f"{_name(key.text)}\n")
            continue
        path = ".".join(key.path)
        text = key.text.removeprefix(key.path[-1]).removeprefix(":").strip()
        lines.append(f"- **`{path}`** {plain(text)}")
    return "\n".join([*lines, *_recipes(), ""])


SHAPES = {
    "clean": "clean images, from random weights (base)",
    "clean-pretrained": "clean images, from published weights",
    "each": "one degradation",
    "all-random": "all degradations, from random weights (scratch)",
    "all-network": "all degradations, from a network (vanilla)",
    "all-merged": "all degradations, from merged weights (fusing)",
}
"""The shapes of a training in words; ``-taught`` stands for one with teachers."""


def _recipes() -> Iterator[str]:
    yield "\n## Defaults of the recipes\n"
    yield "A row's recipe gives the defaults of these keys. They depend on what the row starts from and what it sees.\n"
    for name, shapes in RECIPES.items():
        yield f"\n### {name}\n"
        keys = list(dict.fromkeys(key for settings in shapes.values() for key in settings))
        yield f"| training | {' | '.join(f'`{key}`' for key in keys)} |"
        yield "| --- " * (len(keys) + 1) + "|"
        for shape, settings in shapes.items():
            what = SHAPES[shape.removesuffix("-taught")] + (", with teachers" if shape.endswith("-taught") else "")
            values = (plain(value_text(settings[key])) if key in settings else "-" for key in keys)
            yield f"| {what} | {' | '.join(values)} |"


TITLES = {
    "degradations": "Degradations",
    "sources": "Data sources",
    "networks": "Networks",
    "losses": "Loss terms",
    "merging": "Merging methods",
    "inference": "Ways of inference",
}
LONGER = {"degradations": "{name: NAME, as: ID, levels: 0..10, PARAMETER: ...}"}
"""Another form in which a config names an entry, for which a line of ``fusiondistill list`` has no room."""


def _entry(entry: Entry) -> Iterator[str]:
    """An entry: its docstring's text up to its arguments, its facts, source and parameters."""
    yield f"\n## {entry.name}\n"
    text = (inspect.getdoc(entry.function) or "").split("\nArgs:")[0].split("\nReturns:")[0].split("\nRaises:")[0]
    text = text.split("\nExample")[0].split("\nAttributes:")[0]
    for paragraph in text.strip().split("\n\n"):
        yield f"{plain(' '.join(paragraph.split()))}\n"
    yield from (f"- {plain(note)}" for note in notes_of(entry))
    for key in entry.parameters.model_fields:
        yield f"- {_name(described_parameter(entry, key))}"


class _Called:
    """Shows a function by its name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__

    def __repr__(self) -> str:
        return self.name


def _signature(method: Callable[..., Any]) -> str:
    """A bound method's arguments, without types: Sphinx would take the first for ``self``.

    A default that is a function has no address, so that a page is the same at every build.
    """
    whole = inspect.signature(method)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in whole.parameters.values()]
    bare = [one.replace(default=_Called(one.default)) if inspect.isfunction(one.default) else one for one in bare]
    return str(whole.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def registry(folder: str) -> str:
    """All built-in entries of a registry."""
    forms = [*USED[folder].split(", or "), *filter(None, [LONGER.get(folder)])]
    used = ", or ".join(f"`{form}`" for form in forms)
    lines = [f"# {TITLES[folder]}\n", f"In a config: {used}. On the command line: `fusiondistill list {folder}`.\n"]
    found = all_registries()[folder]
    if folder == "sources":
        lines.append("\nEvery source also takes these keys:\n")
        lines += [f"- {_name(text)}" for text in for_each_source()]
    for name in found.builtin:
        lines += _entry(found[name])
    lines.append("\n## Your own\n\nComplete files of every kind are in [](../howto/entries.md).\n")
    signature = _signature(found.register)
    lines.append(f"```{{eval-rst}}\n.. autofunction:: fusiondistill.{folder.upper()}.register{signature}\n```\n")
    return "\n".join(lines)


def verbs(group: click.Group | None = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every verb of the command line by its words: (``data check``, command)."""
    from fusiondistill_runner.cli import main

    group = group or main
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def _option(command: click.Command, option: click.Parameter) -> str:
    """An option in one line: spellings, metavar, meaning, default."""
    record = option.get_help_record(click.Context(command))
    spelled, meaning = record if record else (option.make_metavar(click.Context(command)), "")
    return f"- `{spelled}`{': ' if meaning else ''}{plain(meaning)}"


def commands() -> str:
    """Every verb: what it does, arguments, options, examples."""
    lines = ["# Command line\n", "`fusiondistill VERB --help` shows the same.\n"]
    lines.append(
        "Exit codes: 0 done, 1 the work failed, 2 the input is wrong, 75 interrupted (start the same command again).\n"
    )
    for name, command in verbs():
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        lines += [f"\n## {name}\n", f"```text\nfusiondistill {name} {usage}\n```\n"]
        for paragraph in inspect.cleandoc(command.help or "").replace("\b", "").split("\n\n"):
            lines.append(f"{plain(' '.join(paragraph.split()))}\n")
        lines += [_option(command, one) for one in command.params if isinstance(one, click.Option)]
        lines.append(f"\nExample:\n\n```text\n{command.epilog}\n```")
    return "\n".join([*lines, ""])


def exported() -> Mapping[str, object]:
    """What ``from fusiondistill import NAME`` gives, by name."""
    return {name: getattr(fusiondistill, name) for name in sorted(fusiondistill.__all__, key=str.lower)}


def python() -> str:
    """What the package exports: values, registries, functions and classes with their docstrings."""
    lines = ["# Python\n", "Each is imported from `fusiondistill`; the import alone costs nothing.\n"]
    objects = exported()
    registries = {name: one for name, one in objects.items() if hasattr(one, "register") and hasattr(one, "package")}
    called = {name: one for name, one in objects.items() if name not in VALUES and name not in registries}
    lines.append("\n## Values\n")
    lines += [f"- `{name}`: {VALUES[name]}" for name in objects if name in VALUES]
    lines.append("\n## Registries\n")
    lines.append("Mappings from names to entries. Each has `register`, a decorator; see [](../howto/entries.md).\n")
    for name, one in registries.items():
        first, _, _ = (inspect.getdoc(one) or "").partition("\n\n")
        lines.append(f"- `{name}`: {plain(' '.join(first.split()))}")
    lines.append("\n## Functions and classes\n")
    for name, one in called.items():
        lines.append(f"(api-{name.lower()})=\n\n### {name}\n")
        directive = "autoclass" if inspect.isclass(one) else "autofunction"
        members = "   :members:\n" if inspect.isclass(one) and name not in ("Config", "DataError") else ""
        signature = _signature(one) if inspect.ismethod(one) else ""
        lines.append(f"```{{eval-rst}}\n.. {directive}:: fusiondistill.{name}{signature}\n{members}```\n")
    lines.append("\n## Beside them\n\nWhat merging methods are given, cards of weights, and plugins from Python.\n")
    for name, directive in BESIDE.items():
        lines.append(f"```{{eval-rst}}\n.. {directive}:: {name}\n```\n")
    return "\n".join(lines)


def configs() -> str:
    """Every shipped config with what its first lines say: command, time, what to expect."""
    lines = ["# Shipped configs\n", "A name stands for the file: `fusiondistill run quickstart`.\n"]
    for file in sorted((Path(__file__).parents[1] / "configs").glob("*.yaml")):
        head = itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
        said = [line.removeprefix("#").removeprefix(" ") for line in head if "yaml-language-server" not in line]
        lines += [f"\n## {file.stem}\n", "```text", *said, "```"]
    return "\n".join([*lines, ""])


PAGES: dict[str, Callable[[], str]] = {
    "config": config,
    **{folder: (lambda folder=folder: registry(folder)) for folder in TITLES},
    "commands": commands,
    "configs": configs,
    "python": python,
}
"""File's name without suffix -> what makes its text."""


def write(folder: Path) -> None:
    """Write all pages; a page that has not changed keeps its file, so that a build goes on from the last one."""
    folder.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        file, text = folder / f"{name}.md", NOTE + make()
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
