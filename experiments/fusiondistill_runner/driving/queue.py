"""The driver's Ray actor that workers pull stages from: the rules of :mod:`driving.dispatcher` with a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Literal

from fusiondistill_runner.driving.dispatcher import ATTEMPTS, Counts, Dispatcher, Event
from fusiondistill_runner.driving.tasks import StageTask
from fusiondistill_runner.planning.stage import Stage

__all__ = ["Event", "StageQueue"]


class StageQueue:
    """Ready stages for the workers, and news of the workers for the driver; each method is a call of the actor.

    Args:
        attempts: how often a stage is tried.
        clock: seconds.
    """

    def __init__(self, attempts: int = ATTEMPTS, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.dispatcher: Dispatcher[StageTask] = Dispatcher(clock(), attempts)

    def offer(self, tasks: Collection[StageTask]) -> None:
        """As :meth:`Dispatcher.offer`."""
        self.dispatcher.offer(tasks, self.clock())

    def assign(self, worker: str, task: StageTask) -> None:
        """As :meth:`Dispatcher.assign`."""
        self.dispatcher.assign(worker, task, self.clock())

    def take(self, worker: str, trains: bool) -> Stage | Literal["wait", "leave"]:
        """The next stage for a worker, see :meth:`Dispatcher.take`."""
        answer = self.dispatcher.take(worker, trains, self.clock())
        return answer.stage if isinstance(answer, StageTask) else answer

    def report(self, worker: str, facts: dict[str, Any]) -> None:
        """As :meth:`Dispatcher.report`."""
        self.dispatcher.report(worker, facts)

    def holds(self, worker: str, digest: str) -> bool:
        """As :meth:`Dispatcher.holds`."""
        return self.dispatcher.holds(worker, digest)

    def finish(self, worker: str, digest: str, error: str | None = None, retry: bool = False) -> None:
        """As :meth:`Dispatcher.finish`."""
        self.dispatcher.finish(worker, digest, self.clock(), error, retry)

    def lose(self, name: str, why: str = "", blamed: Collection[str] | None = None) -> int:
        """As :meth:`Dispatcher.lose`."""
        return self.dispatcher.lose(name, self.clock(), why, blamed)

    def close(self) -> None:
        """As :meth:`Dispatcher.close`."""
        self.dispatcher.close()

    def closing(self) -> bool:
        """As :meth:`Dispatcher.closing`."""
        return self.dispatcher.closing()

    def waiting_for(self) -> int:
        """As :meth:`Dispatcher.waiting_for`."""
        return self.dispatcher.waiting_for()

    def poll(self) -> tuple[list[Event], Counts]:
        """The news since the last call, and what waits."""
        return self.dispatcher.news(), self.dispatcher.counts()
