"""Which ready task a worker gets, and what becomes of a task that ends, fails or loses its worker.

A search is not given to a worker: it proposes trials, which are tasks like any other. A trial is proposed when a worker
asks for work and nothing that is ready has a higher priority than the search (:mod:`driving.coming`).

:class:`Dispatcher` holds these rules. It knows no Ray and no store, and the caller gives the clock. The driver's queue
(:mod:`driving.queue`) is one, and the simulation (:mod:`forecasting.simulation`) drives one.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

from fusiondistill_runner.driving.coming import Coming
from fusiondistill_runner.driving.tasks import TRAINS, Task, search_of
from fusiondistill_runner.planning.specs import JUDGING

__all__ = ["ATTEMPTS", "GRACE", "Counts", "Dispatcher", "Event"]

GRACE = 2.0
"""Seconds without news after which a worker that finds no task leaves; the driver offers the next tasks sooner."""
ATTEMPTS = 3
"""How often a task is started that loses its worker each time and gets no further than before."""

T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class Event:
    """News about a task; ``wanted``: a worker waits for a trial of the search."""

    kind: Literal["started", "progress", "done", "failed", "lost", "wanted"]
    digest: str
    worker: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Counts:
    """What waits: trainings and other tasks that no worker has taken, and workers that have no task.

    Trials count as trainings, also those that a search has yet to propose.
    """

    to_train: int
    others: int
    idle: int


class Dispatcher(Generic[T]):
    """The ready tasks, which worker is at which task, and the news since the caller asked last.

    Args:
        attempts: how often a task is tried.
        clock: tells the time, in seconds.
    """

    def __init__(self, attempts: int = ATTEMPTS, clock: Callable[[], float] = time.monotonic) -> None:
        self.attempts_allowed, self.clock = attempts, clock
        self.training: list[tuple[float, int, T]] = []
        self.others: list[tuple[float, int, T]] = []
        self.offered = 0
        self.ready_models: Counter[tuple[str, ...]] = Counter()
        self.running: dict[str, T] = {}
        self.waiting: set[str] = set()
        self.attempts: dict[str, int] = {}
        self.reached: dict[str, int] = {}
        self.assigned: set[str] = set()
        self.coming: Coming[T] = Coming(lambda search, worker: self._tell("wanted", search, worker))
        self.models: dict[str, tuple[str, ...]] = {}
        self.events: list[Event] = []
        self.last_news = clock()
        self.unkept: set[str] | None = None
        self.gone: set[str] = set()

    def offer(self, tasks: Collection[T], after: Mapping[str, float] = MappingProxyType({})) -> None:
        """Add ready tasks; the highest priority comes first, equals in the order of their offers.

        Args:
            after: key of a task -> the highest priority among the tasks that wait for it. Those that are left out do
                not make workers wait.
        """
        self.coming.after.update(after)
        for task in tasks:
            self.offered += 1
            insort(self.training if task.kind in TRAINS else self.others, (-task.priority, self.offered, task))
            self.coming.offered(task)
            if task.kind in JUDGING:
                self.ready_models[task.needs] += 1
        self.last_news = self.clock()

    def noted(self, keys: Collection[str]) -> None:
        """Note that the caller has heard of the ends of tasks, and that what is ready now has been offered or begun."""
        self.coming.noted(keys)

    def assign(self, worker: str, task: T, after: Mapping[str, float] = MappingProxyType({})) -> None:
        """Note a task that no worker pulls: a search, or one that has its own workers.

        The caller assigns it again when it is lost. ``after`` is that of :meth:`offer`.
        """
        self.assigned.add(task.key)
        self.coming.after.update(after)
        if task.kind == "search":
            self.coming.begin(task)
        self._start(worker, task)

    def expect(self, key: str, left: int, judged: Collection[int] = ()) -> None:
        """Note how many trials a search may still propose; with 0 no worker waits for one any more.

        Args:
            judged: epochs after which its trials wait for :meth:`judge`.
        """
        self.coming.expect(key, left, judged)

    def judge(self, trial: str, epoch: int, goes_on: bool) -> None:
        """Note a search's verdict on a trial after one of the judged epochs."""
        if (search := self.coming.searches.get(search_of(trial))) is not None:
            search.verdicts[trial, epoch] = goes_on

    def goes_on(self, worker: str, trial: str, epoch: int) -> bool | None:
        """Whether a worker's trial goes on after an epoch; None: the verdict is still to come.

        A trial whose search has ended, or that another worker has got, does not; nor does one that was stopped after an
        earlier epoch: it may have got on meanwhile, with another worker or in an earlier run.
        """
        search = self.coming.searches.get(search_of(trial))
        if search is None or not self.holds(worker, trial):
            return False
        if any(of == trial and at <= epoch and not goes_on for (of, at), goes_on in search.verdicts.items()):
            return False
        return search.verdicts.get((trial, epoch)) if epoch in search.judged else True

    def give(self, worker: str, trains: bool) -> T | Literal["wait", "leave"]:
        """The next task for a worker, or what the worker does without one.

        A worker that trains waits while others work, since their ends may make something ready. A worker that does
        not train leaves at once, because another one starts soon. A worker whose group is lost leaves, too.

        Args:
            trains: whether the worker may train.
        """
        if _group(worker) in self.gone:
            return "leave"
        if self.unkept is None and (task := self._next(worker, trains)) is not None:
            self.waiting.discard(worker)
            self.coming.leave(lambda one: one == worker)
            self._start(worker, task)
            return task
        if not trains or (not self.busy and self.clock() - self.last_news > GRACE):
            self.waiting.discard(worker)
            self.models.pop(worker, None)
            return "leave"
        self.waiting.add(worker)
        return "wait"

    @property
    def busy(self) -> bool:
        """Whether any worker does a task that it took from the queue, or a search is under way.

        Tasks with their own workers do not count: they take long, and the next of them needs the slots that idle
        workers hold.
        """
        return bool(self.coming.searches) or any(task.key not in self.assigned for task in self.running.values())

    def _next(self, worker: str, trains: bool) -> T | None:
        """Remove and return the ready task that a worker gets: the first one, or the best evaluation for its model.

        None: there is none, or the worker waits for what is about to come.
        """
        queues = [queue for queue in ((self.training, self.others) if trains else (self.others,)) if queue]
        if trains and self.coming.waits(worker, max((-queue[0][0] for queue in queues), default=-math.inf)):
            return None
        if not queues:
            return None
        first = min(queues)  # by the priority of their first tasks
        _, _, task = first.pop(self._evaluation(worker) if first[0][2].kind in JUDGING else 0)
        if task.kind in JUDGING:
            self.ready_models[task.needs] -= 1
            if not self.ready_models[task.needs]:
                del self.ready_models[task.needs]
        return task

    def _evaluation(self, worker: str) -> int:
        """The place of the evaluation that a worker gets, so that few workers load each model.

        The worker gets one of the models that it evaluated last, else of models that no other worker has, else the
        first.
        """
        own = self.models.get(worker)
        if own in self.ready_models:
            return self._first(lambda models: models == own)
        taken = {models for name, models in self.models.items() if name != worker}
        if any(models not in taken for models in self.ready_models):
            return self._first(lambda models: models not in taken)
        return 0

    def _first(self, wanted: Callable[[tuple[str, ...]], bool]) -> int:
        return next(i for i, (_, _, task) in enumerate(self.others) if task.kind in JUDGING and wanted(task.needs))

    def _start(self, worker: str, task: T) -> None:
        self.running[worker] = task
        if task.kind in JUDGING:
            self.models[worker] = task.needs
        self.attempts[task.key] = self.attempts.get(task.key, 0) + 1
        self._tell("started", task.key, worker, attempt=self.attempts[task.key])

    def report(self, worker: str, key: str, facts: dict[str, Any]) -> None:
        """Note the progress of a worker's task. A task that got further than before has all its attempts again.

        Calls may overtake each other: news of a task that the worker has no more is left out.
        """
        if not self.holds(worker, key):
            return
        if facts.get("epoch", 0) > self.reached.get(key, 0):
            self.reached[key] = facts["epoch"]
            self.attempts[key] = 1
        if self.unkept and facts.get("kept"):
            self.unkept.discard(key)
        self._add(Event("progress", key, worker, facts))

    def holds(self, worker: str, key: str) -> bool:
        """Whether a worker is still meant to do a task."""
        return worker in self.running and self.running[worker].key == key

    def finish(self, worker: str, key: str, error: str | None = None, retry: bool = False) -> None:
        """Note the end of a task; with ``retry`` a failed one is tried again while attempts are left."""
        if not self.holds(worker, key):
            return  # another worker got it in the meantime
        task = self.running.pop(worker)
        if task.kind == "search":
            self._end_search(key)
        if self.unkept:
            self.unkept.discard(key)
        if error is None:
            self.coming.ended(task, done=True)
            self._tell("done", key, worker)
        elif retry and self.attempts[key] < self.attempts_allowed:
            self._tell("lost", key, worker, error=error)
            if key not in self.assigned and (task.kind != "trial" or search_of(key) in self.coming.searches):
                self.offer([task])
        else:
            self.coming.ended(task, done=False)
            self._tell("failed", key, worker, error=error)

    def _end_search(self, key: str) -> None:
        """Forget a search; its trials that run end after their epoch, see :meth:`goes_on`."""
        self.coming.close(key)
        self.training = [one for one in self.training if search_of(one[2].key) != key]

    def lose(self, name: str, why: str = "", blamed: Collection[str] | None = None) -> int:
        """Note that a worker, or a group (its name ends in /), is gone: its tasks are tried again or given up.

        Another worker may bear the name of a lost worker. The name of a group never comes back.

        Args:
            why: what is known about the cause.
            blamed: the workers that died by themselves; tasks of the others do not lose an attempt. None: all.

        Returns:
            How many tasks that concerns.
        """

        def gone(worker: str) -> bool:
            return worker == name or (name.endswith("/") and worker.startswith(name))

        if name.endswith("/"):
            self.gone.add(name)
        self.waiting = {worker for worker in self.waiting if not gone(worker)}
        self.coming.leave(gone)
        self.models = {worker: models for worker, models in self.models.items() if not gone(worker)}
        lost = [worker for worker in self.running if gone(worker)]
        for worker in lost:
            key = self.running[worker].key
            tries = self.attempts[key]
            if blamed is not None and worker not in blamed:
                self.attempts[key] -= 1
            because = f": {why}" if why else ""
            self.finish(worker, key, f"its worker {worker} was lost (attempt {tries}){because}", retry=True)
        return len(lost)

    def close(self) -> None:
        """Give out no more tasks: the run is about to end. Trainings ask :meth:`closing` and store their next epoch."""
        if self.unkept is None:
            self.unkept = {task.key for task in self.running.values() if task.kind in TRAINS}

    def closing(self) -> bool:
        """Whether :meth:`close` was called."""
        return self.unkept is not None

    def waiting_for(self) -> int:
        """How many of the trainings that :meth:`close` found have neither stored an epoch since nor ended."""
        return len(self.unkept or ())

    def news(self) -> list[Event]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def counts(self) -> Counts:
        """What waits."""
        return Counts(len(self.training) + self.coming.trials(), len(self.others), len(self.waiting))

    def _tell(self, kind: Any, key: str, worker: str, **facts: Any) -> None:
        self.last_news = self.clock()
        self._add(Event(kind, key, worker, facts))

    def _add(self, event: Event) -> None:
        self.events.append(event)


def _group(worker: str) -> str:
    """The name of a worker's group: ``group1/`` for ``group1/0``."""
    return f"{worker.rpartition('/')[0]}/"
