"""What the verbs of the command line share: examples in their help, options, errors as exit codes.

Exit codes: 0 done, 1 the work failed, 2 the input is wrong, 75 interrupted (start the same command again).
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from fusiondistill import NAME
from fusiondistill_runner.driving.interruption import INTERRUPTED

__all__ = ["FAILED", "local_option", "main", "overrides_option", "plugin_option", "store_option", "verb", "yes_option"]

FAILED, WRONG_INPUT = 1, 2


class _Command(click.Command):
    """A verb whose help keeps the line breaks of its examples."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            formatter.write_text("Example:")
            with formatter.indentation():
                for line in self.epilog.splitlines():
                    formatter.write_text(line)


def verb(name: str, example: str, group: click.Group | None = None) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of a group (:data:`main`) with an example in its help and errors as exit codes."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            return _guard(functools.partial(function, *args, **kwargs))

        return (group or main).command(name, cls=_Command, epilog=example)(guarded)

    return decorate


def _guard(call: Callable[[], Any]) -> Any:
    """Turn the errors that a user can cause into one clear message and exit code 2."""
    try:
        _check_names()
        return call()
    except (KeyboardInterrupt, SystemExit) as stop:
        # While it starts, Ray answers SIGTERM itself: by SystemExit with the signal's number.
        if isinstance(stop, SystemExit) and stop.code != signal.SIGTERM:
            raise
        click.echo("\ninterrupted: what is stored stays; start the same command again to go on", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # piped into head
        raise
    except (ValueError, KeyError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        if not _is_ours(error) or type(error) is ValueError:
            _blame(error)
        if not _is_ours(error):
            raise
        _stop(str(error), WRONG_INPUT)
    except OSError as error:  # no cluster, no answer from a bucket, a full disk
        _stop(str(error), FAILED)
    except RuntimeError as error:
        from fusiondistill_runner.storage.store import StoreBusy

        if isinstance(error, StoreBusy):
            _stop(str(error), FAILED)
        _blame(error)
        raise
    except Exception as error:
        _blame(error)
        raise


def _check_names() -> None:
    """End the command where a path that it is given is not UTF-8: it could neither be stored nor shown.

    Names inside of data sets are shown with such bytes as ``\\xe9`` (:func:`fusiondistill.data.names.printable`).
    """
    from fusiondistill.data.names import printable

    named = {"the argument": sys.argv[1:], "the folder in which the command starts": [os.getcwd()]}  # noqa: PTH109
    for what, names in named.items():
        for name in names:
            if any("\ud800" <= letter <= "\udfff" for letter in name):
                _stop(f"{what} {printable(name)} is not UTF-8 text: rename the file or folder", WRONG_INPUT)


def _blame(error: Exception) -> None:
    """End the command where it was a user's plugin that raised: its source reads images, its network is counted."""
    from fusiondistill.plugins import blamed

    if at := blamed(error):
        _stop(at, WRONG_INPUT)


def _is_ours(error: Exception) -> bool:
    """Whether an error's message is for users: the project's own errors, and the operating system's about files."""
    return (
        isinstance(error, OSError)
        or (type(error) is ValueError)
        or type(error).__module__.startswith(("fusiondistill.", "fusiondistill_runner."))
    )


def _stop(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


store_option = click.option("--store", metavar="DIR_OR_URI", help="Where results live. Default: runs/<experiment>.")
overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Lay a value over the config; may be repeated."
)


plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE",
    help="A Python file that registers degradations, networks, data sources, ... of your own; may be repeated.",
)


local_option = click.option(
    "--local", is_flag=True, help="In this process, without Ray, one stage after another: for small runs."
)
yes_option = click.option("--yes", is_flag=True, help="Start a very large search without asking.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=NAME)
def main() -> None:
    """Turn several expert classifiers into one: train, fuse, distill, search, evaluate on Ray."""
    signal.signal(signal.SIGTERM, _terminate)
    warnings.showwarning = _show  # type: ignore[assignment]


def _show(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Print a warning in a line, without its place in the code."""
    click.echo(f"note: {message}", err=True)


def _terminate(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
