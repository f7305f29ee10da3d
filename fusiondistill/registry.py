"""One mechanism for all that a config may name: degradations, merging methods, loss terms, data sources, networks, ways
of inference.

A registry is a mapping from names to entries. Each built-in entry is a file of the registry's folder, named like it, so
that the names are known before anything is imported. A plugin registers entries by the same decorator. The keyword-only
parameters of an entry's function are the keys that a config may give: their annotations say type, range and meaning.
Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.resources import files
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from fusiondistill.refusals import close_to, worded
from fusiondistill.signatures import check_arguments, model_of

__all__ = ["Entry", "Kind", "Plugin", "Registry", "UnknownEntry", "WrongResult", "close_to"]

NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Plugin:
    """A user's file that registers entries.

    Attributes:
        path: of the file, as the user gave it.
        source: its text.
    """

    path: str
    source: str

    @cached_property
    def sha256(self) -> str:
        """The digest of its text, 64 hex digits."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def file(self) -> str:
        """The file's name without its folder."""
        return self.path.replace("\\", "/").rpartition("/")[2]


class WrongResult(ValueError):
    """An entry's function returned something that cannot be used; the message says where the function is."""


class UnknownEntry(ValueError):
    """A name that a registry does not have."""


@dataclass(frozen=True)
class Entry:
    """One thing that a config can name.

    Attributes:
        kind: what it is, in words, like ``merging method``.
        name: what configs and tables call it.
        function: what does the work; what it takes and returns is said by its registry.
        version: raised whenever the function would return something else than before for the same input.
        source: the paper or library that it follows, "" where there is none.
        facts: the further arguments of the registry's decorator.
        offered: keyword-only parameters that the project itself passes; they are no keys of a config.
        plugin: the user's file that registered it, None for a built-in entry.
    """

    kind: str
    name: str
    function: Callable[..., Any]
    version: int = 1
    source: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    offered: frozenset[str] = frozenset()
    plugin: Plugin | None = None

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring, in one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())

    @cached_property
    def parameters(self) -> type[BaseModel]:
        """The keys that a config may give this entry, as a pydantic model that refuses all others."""
        return model_of(self)

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters to call the function with: those that were given, checked, over the defaults.

        Raises:
            pydantic.ValidationError: an unknown key, a missing one, or a value of a wrong type or out of range.
        """
        return self.parameters.model_validate(dict(given)).model_dump()

    def plain(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """As :meth:`resolve`, with values as JSON has them: what a config holds, and what goes to another process.

        A process can read them that has not loaded the entry's plugin, whose types they may have. :meth:`resolve`
        takes them back.
        """
        return self.parameters.model_validate(dict(given)).model_dump(mode="json")

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """As :meth:`resolve`, for calls from Python: what is wrong is said in one line.

        Raises:
            ValueError: as :meth:`resolve`.
        """
        try:
            return self.resolve(given) if given or self.parameters.model_fields else {}
        except ValidationError as error:
            # Of a value that may have several forms, what is wrong in the one that it comes nearest to.
            problem = max(error.errors(), key=lambda one: len(one["loc"]))
            key = ".".join(part for part in map(str, problem["loc"]) if "[" not in part)
            if problem["type"] == "extra_forbidden":
                known = tuple(self.parameters.model_fields)
                hint = close_to(key, known) if known else "; it has none"
                raise ValueError(f"the {self.kind} {self.name!r} has no parameter {key!r}{hint}") from None
            if problem["type"] == "missing":
                what = self.parameters.model_fields[key].description
                raise ValueError(f"the {self.kind} {self.name!r} needs {key}" + (f": {what}" if what else "")) from None
            raise ValueError(f"parameter {key} of the {self.kind} {self.name!r}: {worded(problem)}") from None

    def gave(self, problem: str) -> WrongResult:
        """An error to raise where the function returned something useless.

        Args:
            problem: what is wrong with it, like ``returned no number``.
        """
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        at = f" (plugin {self.plugin.path}, line {code.co_firstlineno})" if self.plugin and code else ""
        return WrongResult(f"the {self.kind} {self.name!r}{at} {problem}")

    def notes(self) -> tuple[str, ...]:
        """The facts that ``fusiondistill list`` shows after the parameters, a line each."""
        shown = {key: value for key, value in self.facts.items() if value and isinstance(value, str | bool | frozenset)}
        told = {key: ", ".join(sorted(v)) if isinstance(v, frozenset) else v for key, v in shown.items()}
        return tuple(key.replace("_", " ") if v is True else f"{key.replace('_', ' ')}: {v}" for key, v in told.items())

    @property
    def code(self) -> str:
        """What stands for the entry's code in a digest: its version, or the digest of its plugin's file."""
        return f"plugin {self.plugin.sha256}" if self.plugin else str(self.version)


Kind = TypeVar("Kind", bound=Entry)
"""The class of a registry's entries."""


class Registry(Mapping[str, Kind], Generic[Kind]):
    """Entries of one kind by name; reading an entry imports its file.

    Args:
        kind: what an entry is, in words, like ``merging method``.
        package: dotted name of the folder that holds a file for each built-in entry. Folders inside of it, and files
            whose names open with an underscore, are no entries.
        first: names that come before the others, which follow in the order of the alphabet.
        offered: parameters that the project itself passes by name to every function of this kind that has them.
        takes: what the project passes by position to every function of this kind, in words for messages; None: that
            is not checked.
        reserved: names that no parameter may have: a config gives something else by them, beside the parameters.
    """

    entry: type[Kind] = Entry  # type: ignore[assignment]  # a registry of another kind of entry names its own

    def __init__(
        self,
        kind: str,
        package: str,
        *,
        first: tuple[str, ...] = (),
        offered: frozenset[str] = frozenset(),
        takes: tuple[str, ...] | None = None,
        reserved: frozenset[str] = frozenset(),
    ) -> None:
        self.kind, self.package, self.first, self.offered = kind, package, first, offered
        self.takes, self.reserved = takes, reserved
        self._builtin: dict[str, Kind] = {}
        self._added: dict[str, Kind] = {}
        self._plugin: Plugin | None = None
        REGISTRIES[package.rpartition(".")[2]] = self

    @cached_property
    def builtin(self) -> tuple[str, ...]:
        """The names of the built-in entries, read off the folder: nothing is imported."""
        names = (path.name for path in files(self.package).iterdir())
        found = {name.removesuffix(".py") for name in names if name.endswith(".py") and not name.startswith("_")}
        return (*(name for name in self.first if name in found), *sorted(found - {*self.first}))

    def register(
        self, name: str, *, version: int = 1, source: str = "", replace: bool = False, **facts: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make a function an entry of this registry.

        Args:
            name: lower-case letters, digits and underscores; a letter first.
            version: raised whenever the function would return something else than before for the same input; every
                stored result that used the entry is then made anew. A plugin needs none: its file's digest counts.
            source: the paper or library that the function follows.
            replace: take the place of an entry of that name.
            facts: further arguments, which this registry defines.

        The first paragraph of the function's docstring is what ``fusiondistill list`` shows. Its parameters after a
        ``*`` are the keys that a config may give; each needs a type, like ``width: float = 1.0``, and may have a range
        and a meaning: ``width: Annotated[float, Field(gt=0, description="in logits")] = 1.0`` (pydantic's Field).

        Raises:
            ValueError: the name is not usable or taken, there is no docstring, the function takes other arguments than
                this registry passes, or a parameter has no type, or a default that its own type does not admit.
        """
        if callable(name):
            example = getattr(name, "__name__", "name")
            raise ValueError(f'a {self.kind} needs a name: write .register("{example}") above the function')
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(
                f"the name of a {self.kind} is lower-case letters, digits and underscores, a letter first, not {name!r}"
            )

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            entry = self.entry(self.kind, name, function, version, source, facts, self.offered, self._plugin)
            self.add(entry, replace=replace)
            return function

        return add

    def add(self, entry: Kind, *, replace: bool = False) -> None:
        """Take in an entry; see :meth:`register`."""
        own = self._plugin is None and entry.function.__module__ == f"{self.package}.{entry.name}"
        if not own and not replace and (entry.name in self.builtin or entry.name in self._added):
            before = self._added[entry.name].plugin if entry.name in self._added else None
            of = f" (of the plugin {before.path})" if before else ""
            raise ValueError(
                f"there already is a {self.kind} {entry.name!r}{of}: choose another name, or say replace=True to take "
                "its place"
            )
        if not entry.summary:
            raise ValueError(f"the {self.kind} {entry.name!r} needs a docstring: `list` shows its first line")
        check_arguments(entry, self.takes_of(entry))
        if taken := sorted(self.reserved & entry.parameters.model_fields.keys()):
            text = "a config means something else by it there: choose another name"
            raise ValueError(f"parameter {taken[0]} of the {self.kind} {entry.name!r}: {text}")
        (self._builtin if own else self._added)[entry.name] = entry

    def takes_of(self, entry: Entry) -> tuple[str, ...] | None:
        """What the project passes to an entry's function by position, in words; None: that is not checked."""
        return self.takes

    @property
    def replaced(self) -> tuple[str, ...]:
        """The names of built-in entries whose place an added one takes."""
        return tuple(name for name in self._added if name in self.builtin)

    def added(self) -> tuple[Kind, ...]:
        """The entries that are not built in."""
        return tuple(self._added.values())

    def forget(self, file: str) -> None:
        """Remove what a plugin of that file name registered; a built-in entry that it replaced is back."""
        self._added = {n: e for n, e in self._added.items() if not (e.plugin and e.plugin.file == file)}

    def __getitem__(self, name: str) -> Kind:
        if name in self._added:
            return self._added[name]
        if name in self._builtin:
            return self._builtin[name]
        if not isinstance(name, str) or name not in self.builtin:
            raise KeyError(name)
        import_module(f"{self.package}.{name}")
        if name not in self._builtin:
            raise RuntimeError(f"{self.package}.{name} registers no {self.kind} {name!r}")
        return self._builtin[name]

    def find(self, name: str) -> Kind:
        """The entry of that name.

        Raises:
            UnknownEntry: there is none; the message has the nearest names, or all of them.
        """
        try:
            return self[name]
        except (KeyError, TypeError):
            hint = close_to(str(name), tuple(self))
            hint += "; your own file goes under plugins: [FILE.py]" if hint.startswith("; known") else ""
            raise UnknownEntry(f"no {self.kind} {name!r}{hint}") from None

    def code_of(self, name: str) -> str:
        """What stands in a digest for the code of the entry that has that name here."""
        return self.find(name).code

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._added or name in self.builtin)

    def __iter__(self) -> Iterator[str]:
        return iter((*self.builtin, *(name for name in self._added if name not in self.builtin)))

    def __len__(self) -> int:
        return len(tuple(iter(self)))

    def __repr__(self) -> str:
        return f"<{self.kind}s: {', '.join(self)}>"


REGISTRIES: dict[str, Registry[Any]] = {}
"""Every registry that has been imported, by the name of its folder."""
