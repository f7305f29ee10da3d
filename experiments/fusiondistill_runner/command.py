"""What the verbs of the command line share: examples in their help, options, errors as exit codes.

Exit codes: 0 done, 1 the work failed, 2 the input is wrong, 75 interrupted (start the same command again).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import getpass
import io
import os
import re
import shutil
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from fusiondistill import NAME
from fusiondistill_runner.driving.interruption import INTERRUPTED

__all__ = [
    "FAILED",
    "local_option",
    "main",
    "overrides_option",
    "plugin_option",
    "store_option",
    "tell",
    "told_as_options",
    "verb",
    "yes_option",
]

FAILED, WRONG_INPUT = 1, 2
THREE = "R,G,B"
"""The metavar of options that take three numbers."""
_NUMBER = re.compile(r"[\[(]?\d*\.?\d+,?[\])]?", re.ASCII)


class _Command(click.Command):
    """A verb whose help keeps the line breaks of its examples, and that takes ``--mean 0.4 0.5 0.6`` without quotes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the numbers behind an option of three numbers into one value."""
        threes = {name for one in self.params if getattr(one, "metavar", None) == THREE for name in one.opts}
        for place in reversed([n for n, text in enumerate(args) if text in threes]):
            values = args[place + 1 : place + 4]
            if len(values) == 3 and all(_NUMBER.fullmatch(text) for text in values):
                args = [*args[: place + 1], " ".join(values), *args[place + 4 :]]
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            formatter.write_text("Example:")
            with formatter.indentation():
                for line in self.epilog.splitlines():
                    formatter.write_text(line)


def verb(
    name: str, example: str, group: click.Group | None = None, *, reads: bool = False, whole: bool = False
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of a group (:data:`main`) with an example in its help and errors as exit codes.

    Args:
        reads: the command only prints: it ends quietly when the reader of its output leaves (``| head``). Any other
            command goes on without output.
        whole: the command writes what it is asked for at its end, or nothing.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            _outlive_reader("stderr")
            if not reads:
                _outlive_reader("stdout")
            return _guard(functools.partial(function, *args, **kwargs), nothing_left=reads or whole)

        return (group or main).command(name, cls=_Command, epilog=example)(guarded)

    return decorate


class _Unread(io.FileIO):
    """A file descriptor whose texts are dropped where they cannot be written any more."""

    def write(self, data: Any) -> int:
        """Write, or drop: a pipe whose reader has left and a terminal that is closed take nothing ever again."""
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO):
                _silence(self.fileno())
            return len(data)


def _silence(descriptor: int) -> None:
    """Let a descriptor lead nowhere, for all that writes into it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _outlive_reader(name: str) -> None:
    """Let this process go on where the reader of its ``stdout`` or ``stderr`` leaves, or there is none."""
    stream = getattr(sys, name)
    if stream is None:  # closed by the caller: >&-
        setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # as long as the process
        return
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a notebook's, or a test's
        return
    raw = io.BufferedWriter(_Unread(descriptor, "w", closefd=False))
    with contextlib.suppress(OSError):
        stream.flush()
    setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True))


def _guard(call: Callable[[], Any], *, nothing_left: bool) -> Any:
    """Turn the errors that a user can cause into one clear message and exit code 2.

    Args:
        nothing_left: an interruption leaves nothing behind, from which the same command would go on.
    """
    try:
        _check_names()
        return call()
    except (KeyboardInterrupt, SystemExit) as stop:
        from fusiondistill.plugins import interrupted_by

        # While it starts, Ray answers SIGTERM itself: by SystemExit with the signal's number.
        if interrupted_by(stop) or (isinstance(stop, SystemExit) and stop.code != signal.SIGTERM):
            _blame(stop)
            raise
        left = "nothing was written" if nothing_left else "what is stored stays; start the same command again to go on"
        click.echo(f"\ninterrupted: {left}", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # of a command that only prints: its reader has read enough
        _silence(sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, KeyError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        _blame(error)
        if not _is_ours(error):
            raise
        _stop(str(error), WRONG_INPUT)
    except OSError as error:  # no cluster, no answer from a bucket, a full disk
        _blame(error)
        _stop(str(error), FAILED)
    except RuntimeError as error:
        from fusiondistill_runner.storage.holding import StoreBusy

        if isinstance(error, StoreBusy):
            _stop(str(error), FAILED)
        _blame(error)
        raise
    except Exception as error:
        _blame(error)
        raise


@contextlib.contextmanager
def told_as_options(keys: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[None]:
    """Let a mistake of a value that an option gave name the option, and not the key that the option stands for.

    Args:
        keys: option, as click calls it -> the key of the config.
        values: option -> what was given, as it was written.
    """
    from fusiondistill.config_file import ConfigError, Mistake

    def told(mistake: Mistake) -> Mistake:
        for name, key in keys.items():
            value, rest = values.get(name), mistake.key.removeprefix(key).strip(".").split(".")
            if mistake.line is not None or value in (None, ()) or not f"{mistake.key}.".startswith(f"{key}."):
                continue
            if isinstance(value, tuple) and rest[0].isdecimal():
                value = value[int(rest.pop(0))]
            option = f"--{name.replace('_', '-')}".removesuffix("s" if isinstance(values[name], tuple) else "")
            where = ".".join(part for part in rest if part)
            return Mistake(f"{option} {value}", f"{where}: {mistake.message}" if where else mistake.message, 0)
        return mistake

    try:
        yield
    except ConfigError as error:
        raise ConfigError(error.source, map(told, error.mistakes)) from error


def _check_names() -> None:
    """End the command where a path that it is given is not UTF-8: it could neither be stored nor shown.

    Names inside of data sets are shown with such bytes as ``\\xe9`` (:func:`fusiondistill.data.names.escaped`).
    """
    from fusiondistill.data.names import escaped, is_text

    named = {"the argument": sys.argv[1:], "the folder in which the command starts": [os.getcwd()]}  # noqa: PTH109
    for what, names in named.items():
        for name in names:
            if not is_text(name):
                _stop(f"{what} {escaped(name)} is not UTF-8 text: rename the file or folder", WRONG_INPUT)


def _blame(error: BaseException) -> None:
    """End the command where it was a user's plugin that raised: its source reads images, its network is counted.

    An error of the project's own kinds speaks for itself, also where a plugin asked for it.
    """
    from fusiondistill.plugins import blamed

    if not type(error).__module__.startswith(_OURS) and (at := blamed(error)):
        _stop(at, WRONG_INPUT)


def _is_ours(error: Exception) -> bool:
    """Whether an error's message is for users: the project's own errors, and the operating system's about files."""
    return isinstance(error, OSError) or (type(error) is ValueError) or type(error).__module__.startswith(_OURS)


_OURS = ("fusiondistill.", "fusiondistill_runner.")


def _stop(message: str, code: int) -> NoReturn:
    tell(f"error: {message}", err=True)
    sys.exit(code)


def tell(text: str, *, err: bool = False) -> None:
    """Print a text for people; on a terminal its lines are broken between words, elsewhere each stays a line.

    Not for what programs read, nor for commands to be copied: these stay whole.
    """
    if (sys.stderr if err else sys.stdout).isatty():
        text = "\n".join(map(_fitting, text.splitlines()))
    click.echo(text, err=err)


def _fitting(line: str) -> str:
    """A line broken between words where the terminal ends, the rest of it indented."""
    indent = line[: len(line) - len(line.lstrip())] + "  "
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


store_option = click.option(
    "--store", metavar="DIR_OR_URI", help="The folder or bucket of the results. Default: runs/<experiment>."
)
overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A value for a key of the config, like base.epochs=3; may be repeated.",
)


plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE",
    help="A Python file that registers your own degradations, networks, data sources, ...; may be repeated.",
)


local_option = click.option(
    "--local",
    is_flag=True,
    help="Run in this process, without Ray, one stage after another: for small runs. Default: on Ray.",
)
yes_option = click.option("--yes", is_flag=True, help="Start a very large search without asking. Default: ask.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=NAME)
def main() -> None:
    """Turn several expert classifiers into one: train, fuse, distill, search, evaluate on Ray."""
    _settle()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # under nohup the command goes on
            signal.signal(number, _terminate)
    _shown.clear()
    warnings.showwarning = _show  # type: ignore[assignment]


def _settle() -> None:
    """Give the libraries places for their files where the surroundings name none, before any of them is imported.

    ``HOME`` is set where nothing tells a home. matplotlib's settings and numba's machine code get places where theirs
    take no file. The project's own folders look after themselves.
    """
    from fusiondistill.private_folder import home, private_folder, takes_files

    with contextlib.suppress(OSError):  # what needs a place says so
        if home() is None:
            os.environ["HOME"] = str(private_folder())
        at = home() or Path("/")
        given = [("XDG_CONFIG_HOME", at / ".config"), ("XDG_CACHE_HOME", at / ".cache")]
        folders = [Path(os.environ.get(name) or otherwise) / "matplotlib" for name, otherwise in given]
        if "MPLCONFIGDIR" not in os.environ and not all(map(takes_files, folders)):
            os.environ["MPLCONFIGDIR"] = str(private_folder() / "matplotlib")
        if "NUMBA_CACHE_DIR" not in os.environ and not os.access(Path(__file__).parent, os.W_OK):
            from fusiondistill.data.files import cache_folder

            code = cache_folder() / "numba"  # a cache of decoded images may be read-only
            os.environ["NUMBA_CACHE_DIR"] = str(code if takes_files(code) else private_folder() / "numba")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # torch and Ray ask for a name
        os.environ["LOGNAME"] = f"user-{os.getuid()}"


_shown: set[str] = set()


def _show(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Print a warning in a line, without its place in the code; once, since libraries make Python forget which were."""
    if str(message) not in _shown:
        _shown.add(str(message))
        tell(f"note: {message}", err=True)


def _terminate(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
