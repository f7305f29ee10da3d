"""Starting the real command line on a small experiment, for the tests that need a whole run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import forking

TINY = """
experiment: tiny
seeds: [0]
data: {name: digits, train_images: 200, test_images: 61}
model: {name: cifar_resnet8}
base: {epochs: 2, batch_size: 32}
expert: {epochs: 2, batch_size: 32}
scratch: {epochs: 1, batch_size: 32}
vanilla: {epochs: 1, batch_size: 32}
fusing: {epochs: 1, batch_size: 32}
fusiondistill: {epochs: 2, batch_size: 32, loss: {kd: 0.5}}
search:
  trials: 3
  epochs: 1
  scheduler: none
  space: {loss.kd: {loguniform: [0.1, 1.0]}, loss.kd.temperature: {uniform: [1, 8]}}
evaluation: {every: 25}
"""


def environment(cache: Path, address: str | None = None, *, pictures: bool = False) -> dict[str, str]:
    """The environment of a run: one thread, a cache of its own, no cluster but its own or the one at ``address``.

    The pictures of its report are blank, since drawing them takes up to a third of the time of a small run.
    """
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    there = {"RAY_ADDRESS": address} if address else {}
    plain = {} if pictures else {"FUSIONDISTILL_PICTURES": "0"}
    return {**kept, **there, **plain, "FUSIONDISTILL_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


def command(*arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    """``fusiondistill ...`` with this interpreter."""
    return [sys.executable, *options, "-c", forking.FRESH, *arguments]


def fusiondistill(
    *arguments: str,
    cache: Path,
    options: tuple[str, ...] = (),
    cwd: Path | None = None,
    timeout: float = 280,
    address: str | None = None,
    fresh: bool = False,
    pictures: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end: forked from a process that has imported much, or in a fresh interpreter.

    It is fresh where the interpreter has ``options``, and where the caller asks for that.
    """
    surroundings = environment(cache, address, pictures=pictures)
    if not options and not fresh:
        return forking.run(list(arguments), surroundings, cwd, timeout)
    line = command(*arguments, options=options)
    return subprocess.run(line, env=surroundings, cwd=cwd, capture_output=True, text=True, timeout=timeout)


def started(
    *arguments: str,
    cache: Path,
    address: str | None = None,
    together: bool = False,
    group: bool = False,
    fresh: bool = False,
    around: dict[str, str] | None = None,
) -> forking.Command:
    """A verb that has been started, forked like those of :func:`fusiondistill`, with more in its environment.

    ``together``: its errors go to its output; ``group``: it has a process group of its own, as in a terminal;
    ``fresh``: it is an interpreter that starts and ends like a user's.
    """
    surroundings = {**environment(cache, address), **(around or {})}
    return forking.Command(list(arguments), surroundings, together=together, group=group, fresh=fresh)


Process = subprocess.Popen[str] | forking.Command
"""What is under way."""


@functools.cache
def finished(content: str, *settings: str, verb: str = "run", pictures: bool = False) -> tuple[Path, Path, Path]:
    """(config, store, cache) of a run in one process, without Ray, that nothing happened to.

    The same one again for the same arguments: nothing may be changed in it.
    """
    folder = Path(tempfile.mkdtemp(prefix="finished-", dir=SESSION["folder"]))
    config, store, cache = folder / "config.yaml", folder / "store", Path(SESSION["folder"]) / "cache"
    config.write_text(content)
    words = (verb, str(config), "--local", "--store", str(store), *settings)
    done = fusiondistill(*words, cache=cache, timeout=600, pictures=pictures)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return config, store, cache


SESSION: dict[str, str] = {}
"""``folder``: pytest's, which :mod:`conftest` names."""


def stages(store: Path, prefix: str) -> list[Path]:
    """The directories of the stages whose names open so."""
    return sorted(path for path in store.glob(f"{prefix}-*") if (path / "manifest.json").exists())


def counts(store: Path) -> dict[tuple[str, int, str, int], tuple[int, int]]:
    """(method, seed, degradation, level) -> (right, seen) of a store's results."""
    table: pa.Table = pq.read_table(store / "results.parquet")
    return {(r["method"], r["seed"], r["degradation"], r["level"]): (r["right"], r["seen"]) for r in table.to_pylist()}


def weights(store: Path) -> dict[str, bytes]:
    """Stage directory -> the bytes of its model, for all stages that have one but search trials."""
    found = {}
    for path in store.glob("*/model.*.safetensors"):
        if not path.parent.name.startswith("trial-"):
            found[path.parent.name] = path.read_bytes()
    return found


def contents(store: Path, *names: str) -> dict[tuple[str, str], bytes]:
    """(stage directory, file) -> content, of all stages that have such a file: ``counts.parquet``, ..."""
    found = {}
    for path in store.glob("*/manifest.json"):
        files = json.loads(path.read_text())["files"]
        for name in names:
            if name in files:
                found[path.parent.name, name] = (path.parent / files[name]["file"]).read_bytes()
    return found


RESULTS = (
    "model.safetensors",
    "counts.parquet",
    "predictions.parquet",
    "images.parquet",
    "samples.parquet",
    "mistakes.parquet",
    "best.json",
)
"""Files of stages that hold no times: two runs of one config have the same, to the byte."""


def on_terminal(*arguments: str, cache: Path, columns: int = 80, cwd: Path | None = None) -> tuple[int, str]:
    """The exit code of a command that writes to a terminal of so many columns, and all that it writes there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, close_fds=True,
        env={**environment(cache), "TERM": "xterm", "COLUMNS": str(columns)},
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:
        pass  # the command has closed its terminal
    os.close(ours)
    return process.wait(120), written.decode()


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Return as soon as the condition holds; fail after so many seconds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def workers_of(driver: int, name: str) -> list[int]:
    """Process ids below a driver's process whose command line has this in it: its own workers, nobody else's."""
    listing = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()[1:]]
    family = {driver}
    for _ in range(6):  # deeper than Ray's own processes go
        family |= {int(pid) for pid, parent, _ in rows if int(parent) in family}
    return [int(pid) for pid, _, what in rows if int(pid) in family and name in what]


def epochs_stored(store: Path, stage: str) -> int:
    """How many epochs of an unfinished training are stored (of the one that is furthest, where several open so)."""
    found = [0]
    for path in store.glob(f"{stage}-*/progress.json"):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            found.append(json.loads(path.read_text())["epoch"])
    return max(found)


def half_way(process: Process, store: Path, stage: str, epochs: int = 2) -> int:
    """Wait until a stage has so many epochs stored and one to go; returns how many are stored."""
    wait_for(lambda: epochs_stored(store, stage) >= epochs or process.poll() is not None, 240)
    stored = epochs_stored(store, stage)
    assert stored >= epochs and not stages(store, stage)
    return stored


def frozen(driver: int, name: str) -> list[int]:
    """Stop the workers below a driver by their command line: what is asserted now holds when they are killed."""
    workers = workers_of(driver, name)
    assert workers, [Path(f"/proc/{pid}/cmdline").read_text()[:80] for pid in workers_of(driver, "ray::")]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    return workers


def frozen_at_work(driver: int, name: str, store: Path) -> list[int]:
    """The same, at an instant at which each of them has a stage that is not stored yet, as their driver says."""
    while True:
        workers = frozen(driver, name)
        time.sleep(3)  # the driver writes what they are at
        running = json.loads((store / "status.json").read_text())["running"]
        if len(running) == len(workers) and not any(
            (store / at["directory"] / "manifest.json").exists() for at in running
        ):
            return workers
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)


def tell(fault: str, stored: int, output: str, stage: str) -> None:
    """Print what a fault cost: epochs stored when it struck, and the epoch that the stage went on from."""
    resumed = re.search(rf"{stage}[^\n]*: epoch (\d+)/(\d+), found stored", output)
    assert resumed, output
    again = max(0, stored - int(resumed[1]))
    print(
        f"\nFAULT | {fault} | {stored} of {resumed[2]} epochs stored, went on from {resumed[1]} | {again + 1} at most"
    )
    assert int(resumed[1]) >= stored, output


def ends(process: Process, family: list[int], seconds: float = 120) -> None:
    """Wait for the end of a run and of its ``family``, listed before anything happened to it.

    On a busy machine Ray kills a raylet that is slow to end, and its agent then asks the dead head for a minute.
    """
    assert len(family) > 5, family
    process.wait(timeout=seconds)
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not [pid for pid in family if lives(pid)], seconds)
    left = [(pid, Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in family if lives(pid)]
    assert not left, left


def lives(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
