"""Ends the Ray that a process started when that process ends, even by a kill.

On Linux the kernel ends Ray's own processes with the driver, and their workers follow within seconds. But the two
agents of a node go on for a whole minute, trying to reach the dead head. The next run removes the files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Scratch", "reaped"]

DELAY = 5
"""Seconds that Ray's processes get to end by themselves."""
_KILL = """
    id=${one%:*}
    started=$(sed 's/.*) //' /proc/$id/stat 2>/dev/null | cut -d ' ' -f 20)
    [ "$started" = "${one#*:}" ] && kill -KILL $id 2>/dev/null"""
"""Shell code that kills one process. After the name, which may hold anything, the 20th field is its start time."""


@contextlib.contextmanager
def reaped() -> Iterator[None]:
    """Keep a shell during the block that kills this process's descendants if this process is killed.

    Enter it when Ray has just started: the shell knows only the processes that run by then. It compares start times,
    since the kernel may give a process id again.
    """
    family = " ".join(f"{one}:{started}" for one, started in _descendants(os.getpid()))
    line = f"cat; sleep {DELAY}; for one in {family}; do {_KILL}; done"
    shell = subprocess.Popen(
        ["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        shell.kill()
        shell.communicate()


def _descendants(process: int) -> list[tuple[int, int]]:
    """The processes below one and when they started; none where there is no ``/proc``."""
    parents, started = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            parents[int(entry.parent.name)], started[int(entry.parent.name)] = int(fields[1]), int(fields[19])
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return [(one, started[one]) for one in found[1:]]


class Scratch:
    """A temporary folder for Ray's files, removed at the end; the start removes the folders of dead processes."""

    PREFIX, LOCK = "fusiondistill-ray-", "lock"

    def __init__(self) -> None:
        import fcntl

        self._remove_others(fcntl)
        self.folder = tempfile.TemporaryDirectory(prefix=self.PREFIX)
        self.name = self.folder.name
        new = Path(self.name, "new")
        self.lock = new.open("w")
        with contextlib.suppress(OSError):  # without locks no start removes a folder that a killed process left
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        new.rename(Path(self.name, self.LOCK))  # from the first moment under this name it is locked

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()
        self.lock.close()

    def _remove_others(self, fcntl: Any) -> None:
        for folder in Path(tempfile.gettempdir()).glob(f"{self.PREFIX}*"):
            with contextlib.suppress(OSError), (folder / self.LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
