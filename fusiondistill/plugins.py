"""Users' files that register entries. Each process runs each file once; an error names the file and the line."""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from fusiondistill import NAME
from fusiondistill.registry import REGISTRIES, Plugin, Registry

__all__ = [
    "COPY", "Plugin", "PluginError", "all_registries", "blamed", "copies_of", "interrupted_by", "load_plugins",
    "read_plugins",
]  # fmt: skip


class PluginError(ValueError):
    """A user's file that cannot be used; the message has its name and the line."""


FOLDERS = ("degradations", "sources", "networks", "losses", "merging", "inference")
"""Where the registries live."""

COPY = "plugin."
"""How the name of a file begins that holds a plugin's source, beside a result that the plugin was used for."""

_loaded: dict[str, Plugin] = {}


def read_plugins(paths: Iterable[str]) -> tuple[Plugin, ...]:
    """The users' files, read and not run.

    Raises:
        PluginError: a file is missing, is no text, or two have the same name.
    """
    found: dict[str, Plugin] = {}
    for path in paths:
        try:
            plugin = Plugin(path, Path(path).expanduser().read_text())
        except FileNotFoundError as error:
            there = "" if Path(path).expanduser().is_absolute() else f" in {Path.cwd()}"
            raise PluginError(f"plugin {path} cannot be read: there is no such file{there}") from error
        except (OSError, UnicodeDecodeError) as error:
            text = error.strerror if isinstance(error, OSError) else f"it is no text ({error})"
            raise PluginError(f"plugin {path} cannot be read: {text}") from error
        if plugin.file in found:
            raise PluginError(f"two plugins are called {plugin.file}: give one of them another name")
        found[plugin.file] = plugin
    return tuple(found.values())


def load_plugins(plugins: Sequence[Plugin]) -> None:
    """Run the users' files, each once a process. A file that changed is run again, and its old entries are removed.

    Raises:
        PluginError: a file is no Python, raises while it runs, or registers nothing.
    """
    for plugin in plugins:
        if _loaded.get(plugin.file) != plugin:
            _run(plugin)
            _loaded[plugin.file] = plugin


def copies_of(texts: Iterable[str]) -> dict[str, bytes]:
    """The sources of the loaded plugins whose digests stand in some texts, as files to keep beside a result.

    Args:
        texts: such as the values of ``Entry.code``.

    Returns:
        ``plugin.<file name>`` -> the plugin's text. Such a copy is there to be read; nothing runs it by itself.
    """
    wanted = {found for text in texts for found in _DIGEST.findall(text)}
    return {f"{COPY}{p.file.removeprefix(COPY)}": p.source.encode() for p in _loaded.values() if p.sha256 in wanted}


_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


def _run(plugin: Plugin) -> None:
    registries = tuple(all_registries().values())
    for registry in registries:
        registry.forget(plugin.file)
        registry._plugin = plugin
    _loaded.pop(plugin.file, None)
    lines = plugin.source.splitlines(keepends=True)
    module = ModuleType(f"fusiondistill_plugin_{Path(plugin.file).stem}")
    module.__file__ = plugin.path
    linecache.cache[plugin.path] = (len(plugin.source), None, lines, plugin.path)  # a traceback shows its lines
    try:
        sys.modules[module.__name__] = module  # pickle and dataclasses look a class's module up there
        exec(compile(plugin.source, plugin.path, "exec"), vars(module))
    except SyntaxError as error:
        raise PluginError(f"plugin {plugin.path}, line {error.lineno}: not valid Python: {error.msg}") from error
    except BaseException as error:  # the user's file may raise anything, or exit
        if isinstance(error, KeyboardInterrupt) and not _raised_there(plugin, error):
            raise
        for registry in registries:
            registry.forget(plugin.file)
        sys.modules.pop(module.__name__, None)
        raise PluginError(_at_line(plugin, error) or f"plugin {plugin.path}: {error}") from error
    finally:
        for registry in registries:
            registry._plugin = None
    if not any(entry.plugin == plugin for registry in registries for entry in registry.added()):
        text = f'registers nothing: put a line like @{NAME}.LOSSES.register("name") above a function'
        raise PluginError(f"plugin {plugin.path} {text}")


def blamed(error: BaseException) -> str:
    """An error in one line that names the plugin's file and line where a loaded plugin raised it, else "".

    An error about what a plugin's function returned is raised by the project, so it gives "".
    """
    found = (_at_line(plugin, error) for plugin in _loaded.values())
    return next((line for line in found if line), "")


def interrupted_by(error: BaseException) -> bool:
    """Whether a loaded plugin raised an interruption by itself; Ctrl-C comes from no ``raise``."""
    return any(_raised_there(plugin, error) for plugin in _loaded.values())


def _raised_there(plugin: Plugin, error: BaseException) -> bool:
    last = next(reversed(traceback.extract_tb(error.__traceback__)), None)
    return last is not None and last.filename == plugin.path and (last.line or "").startswith("raise")


def _at_line(plugin: Plugin, error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == plugin.path]
    if not frames:
        return ""
    at = f"plugin {plugin.path}, line {frames[-1].lineno} ({frames[-1].line})"
    return f"{at}: {type(error).__name__}: {error}"


def all_registries() -> dict[str, Registry]:
    """Every registry of the project by the name of its folder, imported; without torch."""
    for folder in FOLDERS:
        import_module(f"fusiondistill.{folder}")
    return {folder: REGISTRIES[folder] for folder in FOLDERS}
