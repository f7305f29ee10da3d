"""The schedule that the driver would follow, as discrete events: jobs and slots in, start and end of each job out.

Pure arithmetic: no Ray, no store, no clock. It follows :mod:`driving.driver` and :mod:`driving.queue` rule by
rule: workers that train wait while others work and leave together when nothing is left; what they hold is not free for
searches; stages of any kind go before searches; a search gets its part of the free slots for as long as it runs. Two
things are left out: nothing fails, and an evaluation goes to any worker (the queue prefers one that holds the model,
which reorders evaluations among themselves, and nothing waits for an evaluation).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fusiondistill_runner.driving.queue import GRACE

__all__ = ["ORDERS", "Job", "Run", "Schedule", "critical_path", "longest_paths", "simulate"]

# Seconds of overhead, from whole runs on a machine with two CPU cores; on a cluster nothing was measured.
FIT_START = 7.0
"""From the decision to start workers to their first stage: 7 to 9 in three fits of a CIFAR-10 run."""
FIT_END = 3.0
"""Until the slots of workers that left are free; an empty fit takes 9 to 12 in all."""
TASK_START = 3.0
"""Of a plain Ray task in a new process: it imports torch."""
SEARCH_START = 6.0
"""What a Tune job takes beyond its trials: 5.6 to 6.1 in three searches."""
OFFER = 0.2
"""Until what became ready is in the queue, and slots that were given back are known: the driver looks so often."""
TAKE = 0.02
"""From the end of a stage to the start of a worker's next: 0.01 to 0.1."""


@dataclass(frozen=True)
class Job:
    """A stage as the simulation sees it.

    Attributes:
        key: names it; unique.
        kind: train, fuse, search, evaluate or import. An import is done by the driver before anything starts.
        seconds: what one worker needs; of a search: for all its trials together; of a data-parallel stage: what all
            its workers together need, wall time.
        needs: keys of the jobs that must be done before.
        priority: the ready job with the highest goes first; of equals the one that was ready first.
        workers: how many data-parallel workers a training takes.
        trials: how many candidates a search has, taken to be equally long (each with all its repeats).
    """

    key: str
    kind: str
    seconds: float
    needs: tuple[str, ...] = ()
    priority: float = 0.0
    workers: int = 1
    trials: int = 1

    @property
    def shortest(self) -> float:
        """Seconds with as many workers as it can use."""
        return self.seconds / self.trials

    @property
    def device_seconds(self) -> float:
        """Seconds of work, over all its workers."""
        return self.seconds * self.workers


@dataclass(frozen=True)
class Run:
    """When a job ran (seconds from the start of the run), and on what."""

    job: Job
    start: float
    end: float
    worker: str
    slots: int


@dataclass(frozen=True)
class Schedule:
    """What a run would do."""

    slots: int
    runs: tuple[Run, ...]

    @property
    def makespan(self) -> float:
        """Seconds from the start of the first workers to the end of the last stage; without the start of Ray."""
        return max((run.end for run in self.runs), default=0.0)

    @property
    def device_seconds(self) -> float:
        """Seconds of work, over all devices."""
        return sum(run.job.device_seconds for run in self.runs)

    @property
    def utilisation(self) -> float:
        """Work as a fraction of what the slots could have done."""
        return self.device_seconds / (self.slots * self.makespan) if self.makespan else 1.0


def simulate(jobs: Sequence[Job], slots: int) -> Schedule:
    """Run jobs on so many slots as the driver would.

    Args:
        jobs: inputs before what uses them; a need that is no job here counts as done.
        slots: workers that fit at once.

    Raises:
        ValueError: a data-parallel job needs more workers than there are slots.

    Example:
        >>> base, expert = Job("base", "train", 60.0), Job("expert", "train", 30.0, needs=("base",))
        >>> round(simulate([base, expert], 1).makespan)  # a fit starts in 7 s
        97
    """
    if slots < 1:
        raise ValueError(f"a schedule needs at least one worker, not {slots}")
    most = max((job.workers for job in jobs), default=1)
    if most > slots:
        raise ValueError(f"resources.workers_per_run is {most}, but only {slots} workers fit")
    return _Simulation(jobs, slots).run()


class _Simulation:
    """The state between two events. ``free`` counts slots that nobody holds."""

    def __init__(self, jobs: Sequence[Job], slots: int) -> None:
        self.slots = self.free = slots
        keys = {job.key for job in jobs}
        self.unmet = {job.key: sum(need in keys for need in set(job.needs)) for job in jobs}
        self.followers: dict[str, list[Job]] = {job.key: [] for job in jobs}
        for job in jobs:
            for need in {*job.needs} & keys:
                self.followers[need].append(job)
        self.now = self.news = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.counted = 0
        self.train: list[tuple[float, int, Job]] = []
        self.other: list[tuple[float, int, Job]] = []
        self.searches: deque[Job] = deque()
        self.parallel: deque[Job] = deque()
        self.idle: list[str] = []
        self.starting = self.pulled = self.workers = 0
        self.runs: list[Run] = []
        self._offer([job for job in jobs if not self.unmet[job.key]])

    def run(self) -> Schedule:
        self._settle()
        while self.events:
            self.now = self.events[0][0]
            while self.events and self.events[0][0] <= self.now + 1e-9:
                heapq.heappop(self.events)[2]()
            self._settle()
        return Schedule(self.slots, tuple(self.runs))

    def _number(self) -> int:
        self.counted += 1
        return self.counted

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + seconds, self._number(), what))

    def _offer(self, ready: Sequence[Job]) -> None:
        """Hand ready jobs to where they belong, as ``Driver._offer``."""
        self.news = self.now
        for job in ready:
            if job.kind == "import":
                self.runs.append(Run(job, self.now, self.now, "driver", 0))
                self._done(job)
            elif job.kind == "search":
                self.searches.append(job)
            elif job.workers > 1:
                self.parallel.append(job)
            else:
                queue = self.train if job.kind == "train" else self.other
                heapq.heappush(queue, (-job.priority, self._number(), job))

    def _done(self, job: Job) -> None:
        self.news = self.now
        ready = []
        for follower in self.followers[job.key]:
            self.unmet[follower.key] -= 1
            if not self.unmet[follower.key]:
                ready.append(follower)
        if ready:
            self._after(OFFER if job.kind != "import" else 0.0, lambda: self._offer(ready))

    def _settle(self) -> None:
        """Idle workers take what is ready, then hands are started as by ``Driver._start_hands``."""
        while self.idle and (self.train or self.other):
            self._take(self.idle.pop(), trains=True)
        while self.parallel and self.free >= self.parallel[0].workers:
            self._start_alone(self.parallel.popleft())
        ready = len(self.train) + len(self.other)
        wanted = min(ready - self.starting, self.free)
        if wanted > 0:
            trains = bool(self.train)
            self._start_workers(wanted, trains, FIT_START if trains else TASK_START)
        while ready <= self.starting and self.searches and self.free > 0:
            self._start_search(self.searches.popleft(), -(-self.free // (len(self.searches) + 1)))
        if self.idle and not self.pulled and not ready:
            self._after(max(0.0, self.news + GRACE - self.now), self._leave)

    def _start_workers(self, count: int, trains: bool, seconds: float) -> None:
        names = [f"{'group' if trains else 'task'}/{self.workers + i}" for i in range(count)]
        self.workers += count
        self.free -= count
        self.starting += count
        self._after(seconds, lambda: self._arrive(names, trains))

    def _arrive(self, names: Sequence[str], trains: bool) -> None:
        self.starting -= len(names)
        if trains:
            self.idle += reversed(names)
            return
        for name in names:
            self._take(name, trains=False)

    def _take(self, worker: str, trains: bool) -> None:
        """The next stage for a worker; one that does not train leaves when there is none."""
        queues = [queue for queue in ((self.train, self.other) if trains else (self.other,)) if queue]
        if not queues:
            if trains:
                self.idle.append(worker)
            else:
                self._after(OFFER, lambda: self._release(1))
            return
        _, _, job = heapq.heappop(min(queues))
        self.pulled += 1
        self._work(job, TAKE, job.seconds, worker, 1, lambda: self._finished(worker, trains))

    def _work(self, job: Job, wait: float, seconds: float, worker: str, slots: int, then: Callable[[], None]) -> None:
        start = self.now + wait
        self.runs.append(Run(job, start, start + seconds, worker, slots))

        def ended() -> None:
            self._done(job)
            then()

        self._after(wait + seconds, ended)

    def _finished(self, worker: str, trains: bool) -> None:
        self.pulled -= 1
        self._take(worker, trains)

    def _leave(self) -> None:
        """Workers that train leave together, when nobody is at anything and there was no news for a while."""
        if self.idle and not (self.pulled or self.train or self.other) and self.now >= self.news + GRACE - 1e-9:
            count, self.idle = len(self.idle), []
            self._after(FIT_END, lambda: self._release(count))

    def _release(self, count: int) -> None:
        self.free += count

    def _start_alone(self, job: Job) -> None:
        self.free -= job.workers
        end = lambda: self._after(FIT_END, lambda: self._release(job.workers))  # noqa: E731
        self._work(job, FIT_START, job.seconds, f"run/{self._number()}", job.workers, end)

    def _start_search(self, job: Job, share: int) -> None:
        slots = min(share, job.trials)
        self.free -= slots
        seconds = SEARCH_START + -(-job.trials // slots) * job.shortest
        end = lambda: self._after(OFFER, lambda: self._release(slots))  # noqa: E731
        self._work(job, 0.0, seconds, f"search/{self._number()}", slots, end)


def longest_paths(jobs: Sequence[Job]) -> dict[str, float]:
    """Key -> seconds of a job and of the longest chain that waits for it, with unlimited workers."""
    longest: dict[str, float] = {}
    for job in reversed(jobs):
        own = longest[job.key] = longest.get(job.key, 0.0) + job.shortest
        for need in job.needs:
            longest[need] = max(longest.get(need, 0.0), own)
    return longest


def critical_path(jobs: Sequence[Job]) -> list[Job]:
    """The chain of jobs that bounds the makespan on any number of devices, first to last; seconds are ``shortest``."""
    longest = longest_paths(jobs)
    followers: Mapping[str, list[Job]] = {job.key: [] for job in jobs}
    starts = []
    for job in jobs:
        there = [need for need in job.needs if need in followers]
        for need in there:
            followers[need].append(job)
        if not there:
            starts.append(job)
    chain, after = [], starts
    while after:
        chain.append(max(after, key=lambda job: longest[job.key]))
        after = followers[chain[-1].key]
    return chain


def _by_path(jobs: Sequence[Job]) -> list[Job]:
    longest = longest_paths(jobs)
    return [replace(job, priority=longest[job.key]) for job in jobs]


ORDERS: Mapping[str, Callable[[Sequence[Job]], list[Job]]] = {
    "driver": list,
    "longest path": _by_path,
    "first come": lambda jobs: [replace(job, priority=0.0) for job in jobs],
    "shortest first": lambda jobs: [replace(job, priority=-job.seconds) for job in jobs],
}
"""To compare: what jobs carry (the driver's: longest path in epochs), the longest path in seconds, two naive orders."""
