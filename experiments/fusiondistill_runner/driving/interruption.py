"""Ctrl-C and SIGTERM as a request that is honoured at a safe point, instead of an exception anywhere at all.

An exception out of a signal handler can strike inside a lock of the logging or import machinery and leave it held for
ever; Ray's threads then wait on it without end.
"""

from __future__ import annotations

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
"""Seconds after a signal in which trainings may store the epoch that they are at."""
ECHO = 0.3
LIMIT = 25.0
"""Seconds after a signal in which a run has ended, whatever it was at. Schedulers kill after 30 or more."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_at_once(why: str) -> NoReturn:
    """End this process without any clean-up; the Ray that it started dies with it, and so do its workers elsewhere.

    Args:
        why: what to say before the hint that the same command goes on.
    """
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""  # a live table hides it
    text = f"{show_cursor}\n{why}: what is stored stays; start the same command again to go on\n"
    os.write(sys.stderr.fileno(), text.encode())
    os._exit(INTERRUPTED)


def keep_epochs(ray: Any, queue: Any) -> None:
    """Let every training store the epoch that it is at; for :data:`GRACE` only. Searches never say that they have.

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

    So does a first one that has not led to an end after :data:`LIMIT` seconds: a call into Ray may never return. Both
    hold until the process has ended, also after the block: the way out may hang as well (at a tracker, at the store).
    A signal to a whole group of processes may reach one twice: signals within :data:`ECHO` count as one.
    """

    def __init__(self) -> None:
        self.noted: float | None = None
        self.over = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self.before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        threading.Thread(target=self._bound, name="interruption", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.requested:
            return
        self.over = True
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals; again after ``ray.init``, which takes them for itself."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is None:
            self.noted = time.monotonic()
        elif time.monotonic() - self.noted > ECHO:
            end_at_once("interrupted twice")

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
