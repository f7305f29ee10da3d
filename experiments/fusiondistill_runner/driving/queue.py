"""The driver's Ray actor that workers pull stages from."""

from __future__ import annotations

from typing import Literal

from fusiondistill_runner.driving.dispatcher import Counts, Dispatcher, Event
from fusiondistill_runner.driving.tasks import StageTask
from fusiondistill_runner.planning.stage import Stage

__all__ = ["Event", "StageQueue"]


class StageQueue(Dispatcher[StageTask]):
    """Ready stages for the workers, and news of the workers for the driver; each method is a call of the actor."""

    def take(self, worker: str, trains: bool) -> Stage | Literal["wait", "leave"]:
        """The next stage for a worker, see :meth:`Dispatcher.give`."""
        answer = self.give(worker, trains)
        return answer.stage if isinstance(answer, StageTask) else answer

    def poll(self) -> tuple[list[Event], Counts]:
        """The news since the last call, and what waits."""
        return self.news(), self.counts()
