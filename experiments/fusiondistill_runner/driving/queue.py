"""The driver's Ray actor that workers pull stages from."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

from fusiondistill_runner.driving.dispatcher import Counts, Dispatcher, Event
from fusiondistill_runner.driving.tasks import StageTask, Trial
from fusiondistill_runner.planning.stage import Stage

__all__ = ["Event", "StageQueue"]


class StageQueue(Dispatcher[StageTask | Trial]):
    """Ready stages and trials for the workers, and news of the workers for the driver; each method is a call.

    An actor with an ``async`` method does all its calls in one thread, one after another up to an ``await``.
    """

    def take(self, worker: str, trains: bool) -> Stage | Trial | Literal["wait", "leave"]:
        """The next stage or trial for a worker, see :meth:`Dispatcher.give`."""
        answer = self.give(worker, trains)
        return answer.stage if isinstance(answer, StageTask) else answer

    def poll(self) -> tuple[list[Event], Counts]:
        """The news since the last call, and what waits."""
        return self.news(), self.counts()

    async def poll_soon(self, seconds: float) -> tuple[list[Event], Counts]:
        """The same, as soon as there is news, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            if not self.events:
                self.told = asyncio.Event()
                await asyncio.wait_for(self.told.wait(), seconds)
        return self.poll()

    def _add(self, event: Event) -> None:
        super()._add(event)
        if self.told is not None:
            self.told.set()

    told: asyncio.Event | None = None
