"""A process that has imported what the command line takes seconds to import, and forks a child for each command.

The child is a process of its own with the environment, folder, output and exit code of the command. It runs the
command's ``main``; it only does not import torch and the like again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def run(
    arguments: list[str], environment: dict[str, str], cwd: Path | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run ``fusiondistill ARGUMENTS`` to its end in a child of the server.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was killed.
    """
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        words = [arguments, environment, str(cwd or Path.cwd()), str(output), str(errors), timeout]
        server.stdin.write(json.dumps(words) + "\n")
        server.stdin.flush()
        try:
            code = int(server.stdout.readline())
        except BaseException:  # a test that ran out of time: its answer would be taken for the next one's
            server.kill()
            _server.cache_clear()
            raise
        said = output.read_text(), errors.read_text()
    line = ["fusiondistill", *arguments]
    if code == -signal.SIGALRM:
        raise subprocess.TimeoutExpired(line, timeout, *said)
    return subprocess.CompletedProcess(line, code, *said)


def serve() -> bool:
    """Fork a child for each command that comes in; returns True in the child, and False at the end of the input."""
    for name in PRELOADED:
        __import__(name)
    for text in sys.stdin:
        arguments, environment, cwd, output, errors, timeout = json.loads(text)
        child = os.fork()
        if child == 0:
            _become(arguments, environment, cwd, output, errors)
            return True
        sys.stdout.write(f"{_end(child, timeout)}\n")
        sys.stdout.flush()
    return False


def _become(arguments: list[str], environment: dict[str, str], cwd: str, output: str, errors: str) -> None:
    """Make this process that of the command, as far as the command can tell."""
    for number, (path, flags) in enumerate(((os.devnull, os.O_RDONLY), (output, os.O_WRONLY), (errors, os.O_WRONLY))):
        opened = os.open(path, flags | (os.O_CREAT if number else 0))
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["fusiondistill", *arguments]
    sys.path.remove(str(Path(__file__).parent))
    tempfile.tempdir = None
    random.seed()


def command() -> None:
    """The command itself, in the child."""
    from fusiondistill_runner.cli import main

    main()


def _end(child: int, timeout: float) -> int:
    """The exit code of a child; that of SIGALRM where it was killed after its time."""
    limit = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > limit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGALRM
        time.sleep(0.005)
