"""Ctrl-C, SIGTERM and SIGHUP as a request that the driver honours at a safe point, not as an exception anywhere.

An exception out of a signal handler can leave a lock of the logging or import machinery held for ever. Ray's threads
would wait for that lock without end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

__all__ = ["INTERRUPTED", "LIMIT", "Interruption", "end_at_once", "keep_epochs"]

INTERRUPTED = 75
"""Exit code of a run that was interrupted: start the same command again."""
GRACE = 12.0
"""Seconds after a signal in which trainings may store their current epoch."""
ECHO = 0.3
"""Seconds within which two signals count as one: a signal to a group of processes may reach one of them twice."""
LIMIT = 25.0
"""Seconds after a signal by which the process has ended, at any point of a run. Schedulers kill after 30 or more."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_at_once(why: str) -> NoReturn:
    """End this process without any clean-up. The Ray that it started ends with it, and so do its workers elsewhere.

    Args:
        why: what to say before the hint that the same command goes on.
    """
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""  # a live table hides it
    text = f"{show_cursor}\n{why}: what is stored stays; start the same command again to go on\n"
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        os.write(sys.stderr.fileno(), text.encode())
    os._exit(INTERRUPTED)


def keep_epochs(ray: Any, queue: Any) -> None:
    """Wait until every training has stored its current epoch, or for :data:`GRACE` seconds.

    Args:
        queue: the handle of the driver's :class:`driving.queue.StageQueue`.
    """
    limit = time.monotonic() + GRACE
    with contextlib.suppress(ray.exceptions.RayError):  # what stops a job may have stopped its Ray as well
        ray.get(queue.close.remote())
        while ray.get(queue.waiting_for.remote()) and time.monotonic() < limit:
            time.sleep(0.2)


class Interruption:
    """While entered, the first signal is noted for :meth:`check`; a second one ends the process at once.

    A thread ends the process :data:`LIMIT` seconds after the first signal, since a call into Ray may never return. Once
    a signal has come, both rules also hold after the block, where a tracker or the store may hang. When Python itself
    ends, it gives signals back to the system: from there on they are ignored, or a late one would decide the exit code.
    """

    def __init__(self) -> None:
        self.noted: float | None = None
        self.over = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self.before = {number: signal.getsignal(number) for number in _SIGNALS}
        if self.before[signal.SIGHUP] == signal.SIG_IGN:  # under nohup
            del self.before[signal.SIGHUP]
        self.install()
        atexit.register(self._ignore)  # before Ray's own, so that it runs after them
        threading.Thread(target=self._bound, name="interruption", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.requested:
            return
        self.over = True
        atexit.unregister(self._ignore)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals; again after ``ray.init``, which takes them for itself."""
        for number in self.before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is None:
            self.noted = time.monotonic()
        elif time.monotonic() - self.noted > ECHO:
            end_at_once("interrupted twice")

    def _ignore(self) -> None:
        for number in self.before:
            signal.signal(number, signal.SIG_IGN)

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.noted is not None

    def _bound(self) -> None:
        while not self.over:
            time.sleep(0.25)  # a handler may take no lock, so nothing wakes this thread
            if self.noted is not None and time.monotonic() - self.noted > LIMIT and not self.over:
                end_at_once(f"interrupted, and not at an end after {LIMIT:.0f} s")

    def check(self) -> None:
        """Raise KeyboardInterrupt here if a signal came."""
        if self.requested:
            raise KeyboardInterrupt
