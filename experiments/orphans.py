"""Sees to it that the Ray which a process started does not outlive it, even when it is killed.

On Linux the kernel ends Ray's own processes with the driver, and their workers follow within seconds. But the two
agents of a node then try for a whole minute to tell the dead head about it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["reaped"]

DELAY = 5
"""Seconds in which Ray's processes may end by themselves."""


@contextlib.contextmanager
def reaped() -> Iterator[None]:
    """While this process lives in the block, a shell waits for its end: should it be killed, its descendants are, too.

    Enter it when Ray has just started: only what runs by then is known.
    """
    family = " ".join(map(str, _descendants(os.getpid())))
    line = f"cat; sleep {DELAY}; kill -KILL {family} 2>/dev/null"
    shell = subprocess.Popen(
        ["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        shell.kill()
        shell.communicate()


def _descendants(process: int) -> list[int]:
    """The processes below one; none where there is no ``/proc``."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]
