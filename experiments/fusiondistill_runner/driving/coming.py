"""What a worker may wait for although other tasks are ready: a trial, or what follows a task that has just ended.

A search proposes a trial when a worker asks for one, so that it has heard of all earlier trials. What follows a task is
in the queue some hundredths of a second after the task's end; a search needs a moment before its first trial and after
its last one. A worker that took the next best task in between would keep the longest path waiting for as long as that
task lasts.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fusiondistill_runner.driving.tasks import Task, search_of

__all__ = ["Coming"]

T = TypeVar("T", bound=Task)


@dataclass
class _Search(Generic[T]):
    """A search that is under way.

    Attributes:
        task: the search.
        left: how many trials it may propose that no worker waits for.
        open: keys of the trials that it has proposed and that have not ended.
        judged: epochs after which a trial waits for the search's verdict.
        verdicts: (trial, epoch) -> whether the trial goes on.
    """

    task: T
    left: int = 0
    open: set[str] = field(default_factory=set)
    judged: Collection[int] = ()
    verdicts: dict[tuple[str, int], bool] = field(default_factory=dict)


class Coming(Generic[T]):
    """The searches under way, the tasks whose ends the driver has not heard of yet, and who waits for what.

    Args:
        ask: called with the key of a search that is to propose a trial, and the worker that waits for it.

    Attributes:
        after: key of a task -> the highest priority among what waits for it.
        promised: worker that waits -> the search or the ended task for which it waits, and the priority of what comes.
    """

    def __init__(self, ask: Callable[[str, str], None]) -> None:
        self.ask = ask
        self.searches: dict[str, _Search[T]] = {}
        self.after: dict[str, float] = {}
        self._proposing: list[tuple[float, str]] = []
        self._left = 0
        self._soon: dict[str, tuple[float, int]] = {}
        self.promised: dict[str, tuple[str, float]] = {}

    def trials(self) -> int:
        """How many trials may be proposed, or are on their way."""
        return self._left + sum(key in self.searches for key, _ in self.promised.values())

    def begin(self, search: T) -> None:
        """Note that a search has begun."""
        self.searches[search.key] = _Search(search)
        self._soon[search.key] = search.priority, search.trials

    def expect(self, key: str, left: int, judged: Collection[int]) -> None:
        """See :meth:`Dispatcher.expect`."""
        search = self.searches[key]
        self._withdraw(key)
        self.noted((key,))
        search.left, search.judged = left, judged
        self._left += left
        if left:
            insort(self._proposing, (-search.task.priority, key))
        self._wind_up(key)

    def offered(self, task: T) -> None:
        """Let one worker that waits for a trial of the task's search take what there is."""
        if task.kind == "trial" and (search := self.searches.get(search_of(task.key))) is not None:
            search.open.add(task.key)
            self._soon.pop(search.task.key, None)
            waiting = (worker for worker, (key, _) in self.promised.items() if key == search.task.key)
            self.promised.pop(next(waiting, ""), None)

    def ended(self, task: T, *, done: bool) -> None:
        """Note the end of a task; what waits for one that is ``done`` may come."""
        if task.kind == "trial":
            if (search := self.searches.get(search_of(task.key))) is not None:
                search.open.discard(task.key)
                self._wind_up(search.task.key)
        elif done and task.key in self.after:
            self._soon[task.key] = self.after[task.key], 1

    def _wind_up(self, key: str) -> None:
        """After a search's last trial its winner may come."""
        search = self.searches[key]
        if not (search.left or search.open) and key in self.after:
            self._soon[key] = self.after[key], 1

    def noted(self, keys: Collection[str]) -> None:
        """Note that the driver has heard of these ends, and that what follows is in the queue or has begun."""
        for key in keys:
            self._soon.pop(key, None)
            self.promised = {worker: found for worker, found in self.promised.items() if found[0] != key}

    def close(self, key: str) -> None:
        """Forget a search."""
        if key in self.searches:
            self._withdraw(key)
            del self.searches[key]
        self.noted((key,))

    def _withdraw(self, key: str) -> None:
        """Ask a search for no more trials."""
        self._left -= self.searches[key].left
        self.searches[key].left = 0
        self._proposing = [one for one in self._proposing if one[1] != key]

    def waits(self, worker: str, ready: float) -> bool:
        """Whether a worker waits, where the best of what is ready has this priority; asks a search for a trial."""
        if worker not in self.promised:
            key, priority = self._best()
            if priority <= ready:
                return False
            self.promised[worker] = key, priority
            if key not in self._soon:
                self._ask(key, worker)
        return self.promised[worker][1] > ready

    def _best(self) -> tuple[str, float]:
        """What is worth waiting for most, and the priority of what comes of it."""
        held = Counter(key for key, _ in self.promised.values()) if self._soon else Counter[str]()
        free = ((priority, key) for key, (priority, workers) in self._soon.items() if held[key] < workers)
        priority, key = max(free, default=(-math.inf, ""))
        if self._proposing and -self._proposing[0][0] > priority:
            priority, key = -self._proposing[0][0], self._proposing[0][1]
        return key, priority

    def _ask(self, key: str, worker: str) -> None:
        self.searches[key].left -= 1
        self._left -= 1
        if not self.searches[key].left:
            del self._proposing[0]
        self.ask(key, worker)

    def leave(self, gone: Callable[[str], bool]) -> None:
        """Forget the workers that are gone, or have something to do."""
        self.promised = {worker: key for worker, key in self.promised.items() if not gone(worker)}
