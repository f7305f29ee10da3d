"""What is started next, and where: worker groups, plain workers and data-parallel runs; also when a search begins.

:class:`Scheduler` holds these rules. It knows no Ray, no store and no clock: the caller gives the time and the slots of
each node, and carries the answers out. The driver (:mod:`driving.driver`) and the simulation
(:mod:`forecasting.simulation`) both drive it. What it starts never exceeds the slots, so nothing deadlocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from fusiondistill_runner.driving.dispatcher import Counts
from fusiondistill_runner.driving.tasks import Task, is_pulled

__all__ = ["LATE", "Reservation", "Scheduler"]

LATE = 90.0
"""Seconds after which the driver tells the user about a worker group that has begun no task."""
FAILED_STARTS = 3
"""The driver ends a run after so many failed worker groups with no task done in between."""

T = TypeVar("T", bound=Task)


@dataclass
class Reservation(Generic[T]):
    """Slots that are in use, and by what.

    Attributes:
        name: that of a group or a plain worker ends in ``/``, and a worker's own name adds its rank. A data-parallel
            run or a search has one name for all its workers.
        kind: ``group``: workers that pull tasks and may train. ``task``: one worker that pulls tasks and does not
            train. ``run``: the workers of a data-parallel training. ``search``: a thread that proposes trials, which
            workers pull.
        slots: how many workers fit into it; 0 for a search.
        node: where it is; None: on any node with room.
        task: of a run or a search.
        began: when it was started.
        works: whether any of its workers has begun a task.
    """

    name: str
    kind: Literal["group", "task", "run", "search"]
    slots: int
    node: str | None
    task: T | None
    began: float
    works: bool = False

    @property
    def pulls(self) -> bool:
        """Whether its workers take tasks from the queue."""
        return self.kind in ("group", "task")


class Scheduler(Generic[T]):
    """The tasks that are missing, the slots that are in use, and what follows from both.

    Args:
        tasks: inputs before what uses them.
        stored: keys of the tasks that need no work; a need that is no task counts as stored.
        group_size: the most workers of one group.
        most: the most slots in use at once; None: all that there are.
        at_once: whether the first worker that trains brings along all that the plan will need: their start takes
            seconds, and on your own machine no one else wants the slots.
    """

    def __init__(
        self, tasks: Sequence[T], stored: Collection[str], *, group_size: int, most: int | None, at_once: bool = False
    ) -> None:
        self.group_size, self.most, self.at_once = group_size, most, at_once
        self.order = {task.key: place for place, task in enumerate(tasks)}
        self.missing = {task.key: task for task in tasks if task.key not in stored}
        self.unmet = {key: len({*task.needs} & self.missing.keys()) for key, task in self.missing.items()}
        self.followers: dict[str, list[T]] = {key: [] for key in self.missing}
        for task in self.missing.values():
            for need in {*task.needs} & self.missing.keys():
                self.followers[need].append(task)
        self.ready = [task for key, task in self.missing.items() if not self.unmet[key]]
        self.searches: list[T] = []
        self.runs: list[T] = []
        self.reservations: dict[str, Reservation[T]] = {}
        self.in_use = self.on_their_way = self.started = self.failed_starts = 0
        self.in_use_on: Counter[str] = Counter()
        self.told_late = False

    def offer(self) -> list[T]:
        """The tasks that have become ready for the queue.

        Searches and data-parallel trainings that have become ready are kept for :meth:`start`.
        """
        ready, self.ready = sorted(self.ready, key=lambda task: self.order[task.key]), []
        for task in ready:
            self._keep(task)
        return [task for task in ready if is_pulled(task)]

    def after(self, tasks: Iterable[T]) -> dict[str, float]:
        """Key of a task -> the highest priority among the tasks that wait for it; those that nothing waits for lack."""
        waiting = ((task.key, [one.priority for one in self.followers[task.key]]) for task in tasks)
        return {key: max(found) for key, found in waiting if found}

    def _keep(self, task: T) -> None:
        if not is_pulled(task):
            (self.searches if task.kind == "search" else self.runs).append(task)

    def done(self, key: str) -> None:
        """Note that a task is done: what waited for it alone is ready."""
        if self.missing.pop(key, None) is None:
            return
        self.worked()
        for follower in self.followers[key]:
            self.unmet[follower.key] -= 1
            if not self.unmet[follower.key]:
                self.ready.append(follower)

    def worked(self) -> None:
        """Note that a worker has done something, a trial perhaps: starts that failed before do not count any more."""
        self.failed_starts = 0

    def lost(self, key: str) -> None:
        """Note that a task lost its workers: what no worker pulls is started again. The queue has the others."""
        self._keep(self.missing[key])

    def begun(self, worker: str) -> None:
        """Note that a worker has begun a task."""
        found = self.reservations.get(f"{worker.rpartition('/')[0]}/")
        if found is not None and not found.works:
            found.works = True
            self.on_their_way -= found.slots

    def ended(self, name: str, *, failed: bool = False) -> None:
        """Note that what held a reservation has ended; ``failed``: by an error that concerns no task."""
        found = self.reservations.pop(name)
        self.in_use -= found.slots
        if found.node is not None:
            self.in_use_on[found.node] -= found.slots
        if found.pulls:
            self.on_their_way -= 0 if found.works else found.slots
            self.failed_starts += failed

    @property
    def given_up(self) -> bool:
        """Whether workers cannot be kept running."""
        return self.failed_starts >= FAILED_STARTS

    @property
    def idle(self) -> bool:
        """Whether nothing holds slots or waits for its own slots."""
        return not (self.reservations or self.searches or self.runs)

    def start(self, nodes: Mapping[str, int], counts: Counts, now: float) -> list[Reservation[T]]:
        """What to start now: searches at once, then data-parallel runs, then workers for what the queue holds.

        Args:
            nodes: id of a node -> its slots.
            counts: what waits in the queue. Its idle workers, and workers on their way, will take as many tasks.
        """
        to_train = counts.to_train + sum(task.trials for task in self.searches)
        started = [self._reserve("search", 0, None, task, now) for task in self.searches]
        self.searches = []
        started += self._start_runs(nodes, now)
        wanted = to_train + counts.others - counts.idle - self.on_their_way
        if wanted > 0:
            kind: Literal["group", "task"] = "group" if to_train else "task"
            if self.at_once and kind == "group":
                wanted = max(wanted, self._to_come() - self._trainers())
            started += self._start_pulling(kind, min(wanted, self.free(nodes)), nodes, now)
        return started

    def _to_come(self) -> int:
        """How many workers could train at once before the plan is done, about: tasks that are as many needs away."""
        away: dict[str, int] = {}
        width: Counter[int] = Counter()
        for key, task in self.missing.items():
            away[key] = 1 + max((away[need] for need in task.needs if need in away), default=0)
            if task.kind == "search" or (task.kind == "train" and task.workers == 1):
                width[away[key]] += task.trials
        return max(width.values(), default=0)

    def _trainers(self) -> int:
        """How many workers there are that may train, those on their way too."""
        return sum(one.slots for one in self.reservations.values() if one.kind == "group")

    def free(self, nodes: Mapping[str, int]) -> int:
        """How many slots are free on these nodes together."""
        count = sum(nodes.values())
        return max(0, (min(count, self.most) if self.most else count) - self.in_use)

    def _start_runs(self, nodes: Mapping[str, int], now: float) -> Iterator[Reservation[T]]:
        while self.runs and self.free(nodes) >= self.runs[0].workers:
            task = self.runs.pop(0)
            yield self._reserve("run", task.workers, None, task, now)

    def _start_pulling(
        self, kind: Literal["group", "task"], wanted: int, nodes: Mapping[str, int], now: float
    ) -> Iterator[Reservation[T]]:
        """So many workers, on the emptiest nodes first."""
        free = {node: count - self.in_use_on[node] for node, count in nodes.items()}
        for node in sorted((node for node in free if free[node] > 0), key=lambda node: (-free[node], node)):
            here = min(free[node], wanted)
            wanted -= here
            while here:
                size = min(self.group_size, here) if kind == "group" else 1
                here -= size
                yield self._reserve(kind, size, node, None, now)

    def _reserve(
        self, kind: Literal["group", "task", "run", "search"], slots: int, node: str | None, task: T | None, now: float
    ) -> Reservation[T]:
        self.started += 1
        label = task.label if task is not None else ""
        name = f"search/{label}" if kind == "search" else f"{kind}{self.started}/{label}"
        made = self.reservations[name] = Reservation(name, kind, slots, node, task, now)
        self.in_use += slots
        if node is not None:
            self.in_use_on[node] += slots
        if made.pulls:
            self.on_their_way += slots
        return made

    def is_late(self, now: float) -> bool:
        """Whether a worker group has done nothing for :data:`LATE` seconds; says so once."""
        if self.told_late:
            return False
        found = self.reservations.values()
        self.told_late = any(one.kind == "group" and not one.works and now - one.began > LATE for one in found)
        return self.told_late
