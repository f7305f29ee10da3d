"""A plan in this process, without Ray: one stage after another, first the one that the longest path waits for.

The rules are those of a run through Ray: :class:`Scheduler` and :class:`Dispatcher` with one worker. The results are
equal to the byte, since weights, counts and predictions depend neither on order nor on place.
"""

from __future__ import annotations

from typing import Any

import torch

from fusiondistill.config import Config
from fusiondistill_runner.driving.dispatcher import Dispatcher
from fusiondistill_runner.driving.driver import Outcome
from fusiondistill_runner.driving.interruption import Interruption
from fusiondistill_runner.driving.scheduler import Scheduler
from fusiondistill_runner.driving.tasks import StageTask, tasks_of
from fusiondistill_runner.driving.workers import may_pass
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.searching import in_turn
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.errors import describe
from fusiondistill_runner.working.execute import execute, note_error

__all__ = ["LocalDriver", "device_of"]

WORKER = "local"


def device_of(config: Config) -> torch.device:
    """What stages compute on: a GPU if there is one and ``resources.gpus_per_worker`` is not 0."""
    wanted = config.resources.gpus_per_worker != 0 and torch.cuda.is_available()
    return torch.device("cuda" if wanted else "cpu")


class LocalDriver:
    """One run over the missing stages of a plan.

    Args:
        plan: what there is to do.
        store: of the run; held by the caller.
        context: of its stages.
        stored: digests that need no work.
        display: told about every stage that starts, gets on and ends.
        interruption: asked at points where it is safe to end.
    """

    def __init__(
        self, plan: Plan, store: Store, context: Context, stored: set[str], display: Any, interruption: Interruption
    ) -> None:
        self.store, self.context, self.display, self.interruption = store, context, display, interruption
        self.by_digest = {stage.digest: stage for stage in plan.stages}
        self.device = device_of(plan.config)
        self.scheduler: Scheduler[StageTask] = Scheduler(tasks_of(plan.stages), stored, group_size=1, most=1)
        self.dispatcher: Dispatcher[StageTask] = Dispatcher()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Do the missing stages, except those that rest on a failed one.

        Raises:
            KeyboardInterrupt: the process was asked to end; the epoch that was under way is stored.
        """
        while True:
            self._check()
            ready = [*self.scheduler.offer(), *self.scheduler.searches]
            self.scheduler.searches.clear()  # without Ray a search waits for its turn like any stage
            if ready:
                self.dispatcher.offer(ready)
            task = self.dispatcher.give(WORKER, True)
            if not isinstance(task, StageTask):
                break
            self._tell()
            error, retry = self._do(task.stage)
            self.dispatcher.finish(WORKER, task.key, error, retry)
            self._tell()
        missing = [self.by_digest[digest] for digest in self.scheduler.missing]
        self.outcome.blocked = [stage for stage in missing if stage.directory not in self.outcome.failed]
        return self.outcome

    def _do(self, stage: Stage) -> tuple[str | None, bool]:
        """Do a stage; returns its error, and whether another try may go better."""
        try:
            if stage.kind == "search":
                self.store.forget_error(stage)
                in_turn.run(stage, self.context, self.device, self._report, self._closing)
            else:
                execute(stage, self.context, self.device, self._report, closing=self._closing)
        except Exception as problem:
            self._check()  # raises where the loss of the store made it fail
            error = describe(problem)
            note_error(stage, self.context, error)
            return error, may_pass(problem) and stage.kind != "search"
        return None, False

    def _report(self, facts: dict[str, Any]) -> None:
        self.dispatcher.report(WORKER, self.dispatcher.running[WORKER].key, facts)
        self._tell()
        if facts.get("kept", True):  # else the next epoch is stored
            self._check()

    def _closing(self) -> bool:
        return self.interruption.requested

    def _check(self) -> None:
        """Raise KeyboardInterrupt if the process was asked to end, StoreBusy if another run took the store over."""
        self.interruption.check()
        self.store.check_held()

    def _tell(self) -> None:
        """Pass the news on to the scheduler, the outcome and the display."""
        for event in self.dispatcher.news():
            stage = self.by_digest[event.digest]
            if event.kind == "done":
                self.scheduler.done(event.digest)
                self.outcome.done.append(stage)
            elif event.kind == "failed":
                self.outcome.failed[stage.directory] = event.facts["error"]
            self.display.note(stage, event)
