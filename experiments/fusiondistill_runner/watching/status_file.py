"""``status.json``: the state of a run, as one small file in its store that other programs read by one request."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from fusiondistill_runner.storage.lease import gone, machine
from fusiondistill_runner.storage.store import Store

__all__ = ["STATUS_FILE", "StatusFile", "read_status"]

STATUS_FILE = "status.json"
EVERY, EVERY_REMOTE = 1.0, 10.0
"""Seconds between two looks at the run, for a directory and for a bucket."""
HEARTBEAT = 30.0
"""Seconds after which the file is written again without news."""
SILENT = 90.0
"""Seconds without a heartbeat after which readers take the run for gone."""


class StatusFile:
    """While entered, writes ``status.json`` from a thread that never holds up the run.

    The file holds what ``look`` gives, and ``state`` (running, done, failed or interrupted), ``host``, ``machine``,
    ``process`` and ``updated`` (seconds since 1970).

    Args:
        look: gives the state of the run, JSON-able; its ``complete`` says at the end whether all is done.
    """

    def __init__(self, store: Store, look: Callable[[], dict[str, Any]]) -> None:
        self.store, self.look = store, look
        self.every = EVERY_REMOTE if store.remote else EVERY
        self.ended, self.lock = threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self._keep_writing, name="status file", daemon=True)

    def __enter__(self) -> StatusFile:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        content = self.look()
        self._write("interrupted" if error else "done" if content["complete"] else "failed", content)

    def _keep_writing(self) -> None:
        written: dict[str, Any] = {}
        at = 0.0
        while not self.ended.is_set():
            content = self.look()
            news = {name: value for name, value in content.items() if name != "seconds_left"}
            if news != written or time.monotonic() - at > HEARTBEAT:
                self._write("running", content)
                written, at = news, time.monotonic()
            self.ended.wait(self.every)

    def _write(self, state: str, content: dict[str, Any]) -> None:
        """Write the file. A run that has ended does not overwrite its end; a failed write is reported by the run."""
        at = {"host": socket.gethostname(), "machine": machine(), "process": os.getpid(), "updated": time.time()}
        with self.lock, contextlib.suppress(OSError):
            if state == "running" and self.ended.is_set():
                return
            self.store.write(json.dumps({"state": state, **at, **content}).encode(), STATUS_FILE)


def read_status(store: Store) -> dict[str, Any] | None:
    """What a run last wrote, None where there is no readable file.

    Its ``silent`` holds the seconds since the last news of a run that seems to be gone, else None.
    """
    data = store.read_raw(STATUS_FILE)
    try:
        status = json.loads(data) if data is not None else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(status, dict) or not _readable(status):
        return None
    age = time.time() - status["updated"]
    lost = age > SILENT or gone(status.get("machine"), status.get("process"))
    return {**status, "silent": age if status["state"] == "running" and lost else None}


def _readable(status: dict[str, Any]) -> bool:
    """Whether a file has the keys and types that readers rely on."""
    running = status.get("running", None if status.get("state") == "running" else [])
    return (
        all(isinstance(status.get(name), str) for name in ("state", "host"))
        and all(_number(status.get(name)) for name in ("updated", "process"))
        and (status.get("seconds_left") is None or _number(status["seconds_left"]))
        and isinstance(running, list)
        and all(isinstance(one, dict) and _number(one.get("since")) for one in running)
        and all(isinstance(one.get(name), str) for one in running for name in ("directory", "worker"))
        and all("epoch" in one or "epochs" not in one for one in running)
        and all(_number(one[name]) for one in running for name in ("epoch", "epochs") if name in one)
        and all(isinstance(one.get(name, 0.0), float | int) for one in running for name in ("loss", "validation"))
    )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15  # no NaN either
