"""One driver per bucket. A bucket has no locks, so the holder leaves a sign of life that others watch.

It keeps two runs from doing the same work by mistake. That their results are never mixed rests on the manifests.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["LEASE", "leased"]

LEASE = "lease.json"
BEAT = 10.0
"""Seconds between two signs of life; a holder that misses two is gone."""

Read = Callable[[], bytes | None]
Write = Callable[[bytes], None]


@contextlib.contextmanager
def leased(read: Read, write: Write, beat: float = BEAT) -> Iterator[str | None]:
    """Hold a lease for the length of a block, if nobody else does.

    A holder that was killed is recognised at once on its own machine, elsewhere after 2.5 beats without a sign of life.

    Args:
        read, write: of the lease's file.

    Yields:
        None, or who holds it; then the block must not go on.
    """
    holder = _alive(read, beat)
    if holder is not None:
        yield holder
        return
    mine: dict[str, Any] = {
        "holder": secrets.token_hex(8),
        "who": f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}",
        "host": socket.gethostname(),
        "process": os.getpid(),
        "beat": 0,
    }
    write(json.dumps(mine).encode())
    found = _parsed(read())  # of two that write at once, the later one holds it
    if found is not None and found["holder"] != mine["holder"]:
        yield str(found["who"])
        return
    over = threading.Event()

    def sign(**more: Any) -> None:
        with contextlib.suppress(OSError):
            now = _parsed(read())
            if now is None or now["holder"] == mine["holder"]:  # else it was taken for dead, and is another's
                write(json.dumps({**mine, **more}).encode())

    def signs() -> None:
        while not over.wait(beat):
            mine["beat"] += 1
            sign()

    thread = threading.Thread(target=signs, name="lease", daemon=True)
    thread.start()
    try:
        yield None
    finally:
        over.set()
        thread.join()
        sign(over=True)


def _alive(read: Read, beat: float) -> str | None:
    """Who holds the lease, None if nobody does any more."""
    found = _parsed(read())
    if found is None or found.get("over"):
        return None
    if found["host"] == socket.gethostname() and not _runs(found["process"]):
        return None
    limit = time.monotonic() + 2.5 * beat
    while time.monotonic() < limit:
        time.sleep(beat / 10)
        now = _parsed(read())
        if now is None or now.get("over"):
            return None
        if (now["holder"], now["beat"]) != (found["holder"], found["beat"]):
            return str(now["who"])
    return None


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        entry = json.loads(data) if data is not None else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"holder", "who", "host", "process", "beat"} <= entry.keys() else None
