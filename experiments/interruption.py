"""Ctrl-C and SIGTERM as a request that is honoured at a safe point, instead of an exception anywhere at all.

An exception out of a signal handler can strike inside a lock of the logging or import machinery and leave it held for
ever; Ray's threads then wait on it without end.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While entered, the first signal is noted for :meth:`check`; a second one ends the process's work at once."""

    def __init__(self) -> None:
        self.requested = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self.before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals (again, after somebody else took them: ``ray.init`` does)."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def check(self) -> None:
        """Raise KeyboardInterrupt here if a signal came."""
        if self.requested:
            raise KeyboardInterrupt
