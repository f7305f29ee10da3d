"""A process that has imported what the command line takes seconds to import, and forks a child for each command.

The child is a process of its own with the environment, folder, output and exit code of the command. It runs the
command's ``main``; it only does not import torch and the like again. A command that needs Ray imports Ray itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

FRESH = "from fusiondistill_runner.cli import main; main()"
SERVE = "import forking; forking.serve() and forking.command()"
PRELOADED = (
    "torch", "torch._dynamo", "torch.fx", "torchvision", "matplotlib.figure", "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg", "pandas", "pyarrow.parquet", "safetensors.torch", "tensorboardX",
    "fusiondistill.fitting", "fusiondistill.evaluation",
    "fusiondistill.report.page", "fusiondistill.degradations.machinery.blur_kernel", "fusiondistill_runner.cli",
    "fusiondistill_runner.runner", "fusiondistill_runner.working.execute", "fusiondistill_runner.working.train",
    "fusiondistill_runner.working.evaluate", "fusiondistill_runner.working.merge",
)  # fmt: skip
"""Modules that read no variable which a test sets, and start no thread. Ray reads many: it is not among them."""


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The process that forks; it ends with this one, whose end closes its input."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stdin=pipe, stdout=pipe, text=True)


def _asked(*words: object) -> int:
    """The server's answer to a request: a number."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    try:
        server.stdin.write(json.dumps(words) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())
    except BaseException:  # a test that ran out of time: its answer would be taken for the next one's
        server.kill()
        _server.cache_clear()
        raise


class Command:
    """A ``fusiondistill ARGUMENTS`` that has been started, with what the tests use of ``subprocess.Popen``.

    As a context manager it waits for the end of the command.
    """

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        cwd: Path | None = None,
        *,
        together: bool = False,
        group: bool = False,
        fresh: bool = False,
    ) -> None:
        """Start it.

        Args:
            together: its errors go to its output.
            group: it has a process group of its own.
            fresh: it is no child of the server, but an interpreter that starts and ends like a user's.
        """
        self.args = ["fusiondistill", *arguments]
        folder = Path(tempfile.mkdtemp(prefix="said-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._output, self._errors = folder / "output", folder / ("output" if together else "errors")
        self._together = together
        self.returncode: int | None = None
        files = (str(self._output), str(self._errors))
        self._own: subprocess.Popen[bytes] | None = None
        if fresh:
            with self._output.open("ab") as output, self._errors.open("ab") as errors:
                line = [sys.executable, "-c", FRESH, *arguments]
                self._own = subprocess.Popen(
                    line, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                    start_new_session=group,
                )  # fmt: skip
        self.pid = (
            self._own.pid
            if self._own
            else _asked("start", arguments, environment, str(cwd or Path.cwd()), *files, group)
        )

    def poll(self) -> int | None:
        """The exit code; None as long as it runs."""
        if self._own:
            self.returncode = self._own.poll()
        elif self.returncode is None and (found := _asked("poll", self.pid)) != RUNNING:
            self.returncode = found
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it goes on after so many seconds.
        """
        limit = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > limit:
                raise subprocess.TimeoutExpired(self.args, timeout, *self.said())
            time.sleep(0.02)
        return code

    def said(self) -> tuple[str, str]:
        """What it has written so far to its output, and as errors."""
        output, errors = (path.read_text() if path.exists() else "" for path in (self._output, self._errors))
        return output, "" if self._together else errors

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Wait for its end; returns what it wrote."""
        self.wait(timeout)
        return self.said()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.kill()
        self.wait()


def run(
    arguments: list[str], environment: dict[str, str], cwd: Path | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run ``fusiondistill ARGUMENTS`` to its end in a child of the server.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was killed.
    """
    with Command(arguments, environment, cwd) as command:
        return subprocess.CompletedProcess(command.args, command.wait(timeout), *command.said())


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a child of the server, in which no plugin was loaded before."""
    (answer,) = _answers((function, arguments))
    return answer


def both(function: Callable[[Path, int], None], folder: Path) -> None:
    """Call ``function(folder, rank)`` in two children of the server, side by side, with rank 0 and 1."""
    _answers((function, (folder, 0)), (function, (folder, 1)))


def _answers(*calls: tuple[Callable[..., Any], tuple[Any, ...]]) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        places = [Path(folder) / str(number) for number in range(len(calls))]
        for place, one in zip(places, calls, strict=True):
            place.write_bytes(pickle.dumps(one))
        commands = [stack.enter_context(Command([CALL, str(place)], dict(os.environ))) for place in places]
        assert [one.wait(250) for one in commands] == [0] * len(calls), [one.said() for one in commands]
        return [pickle.loads(place.with_suffix(".answer").read_bytes()) for place in places]


CALL = "--call"
"""Stands in the place of a verb: a function is called instead."""
RUNNING = 1000
"""The answer for a command that has no exit code yet."""


def serve() -> bool:
    """Fork a child for each command that comes in; returns True in the child, and False at the end of the input."""
    for name in PRELOADED:
        __import__(name)
    gc.freeze()  # else each child copies all pages of what was imported when it collects
    for text in sys.stdin:
        what, *words = json.loads(text)
        if what == "start":
            answer = os.fork()
            if answer == 0:
                _become(*words)
                return True
        else:
            found, status = os.waitpid(words[0], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if found else RUNNING
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    return False


def _become(arguments: list[str], environment: dict[str, str], cwd: str, output: str, errors: str, group: bool) -> None:
    """Make this process that of the command, as far as the command can tell."""
    for number, (path, flags) in enumerate(((os.devnull, os.O_RDONLY), (output, os.O_WRONLY), (errors, os.O_WRONLY))):
        opened = os.open(path, flags | (os.O_CREAT | os.O_APPEND if number else 0))
        os.dup2(opened, number)
        os.close(opened)
    if group:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["fusiondistill", *arguments]
    sys.path.remove(str(Path(__file__).parent))
    tempfile.tempdir = None
    random.seed()


def command() -> NoReturn:
    """The command itself, in the child; it ends without taking down the modules, which takes as long as a short verb.

    The order is the interpreter's: threads that are waited for, exit functions, what is left in the streams.
    """
    from fusiondistill_runner.cli import main

    code: object = 0
    try:
        _called(Path(sys.argv[2])) if sys.argv[1:2] == [CALL] else main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _called(asked: Path) -> None:
    sys.path.append(str(Path(__file__).parent))
    function, arguments = pickle.loads(asked.read_bytes())
    asked.with_suffix(".answer").write_bytes(pickle.dumps(function(*arguments)))
