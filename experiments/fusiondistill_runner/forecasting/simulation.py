"""The schedule that the driver would follow, as discrete events: jobs and slots in, start and end of each job out.

The decisions are the driver's own: :mod:`driving.scheduler` decides what is started, :mod:`driving.dispatcher` which
worker gets what. This module has no rules of its own: it gives them the time and the ends of jobs. No job fails.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fusiondistill.config import Resources
from fusiondistill.counting import counted
from fusiondistill_runner.driving.dispatcher import GRACE, Counts, Dispatcher
from fusiondistill_runner.driving.scheduler import Reservation, Scheduler
from fusiondistill_runner.driving.tasks import search_of

__all__ = ["Job", "Run", "Schedule", "simulate"]

# Seconds of overhead, from whole runs on a machine with two CPU cores; on a cluster nothing was measured.
FIT_START = 4.5
"""From the driver's decision to start workers to their first stage: what the demo needs beyond Ray's own start."""
FIT_END = 3.0
"""From the end of a fit's workers until their slots are free; an empty fit takes 9 to 12 in all."""
TASK_START = 3.0
"""The start of a plain Ray task in a new process, which imports torch."""
SEARCH_END = 1.5
"""From the end of a search's last trial until what follows it begins: 1.4 to 1.8 in four searches."""
OFFER = 0.05
"""From the end of a stage until the driver has heard of it and queued what follows, or taken back the slots."""
TAKE = 0.02
"""From the end of a stage to the start of a worker's next: 0.01 to 0.1."""
ASK = 1e-6
"""From the end of the grace time until an idle worker asks again and leaves; real workers ask every 0.1 s."""
GROUP_SIZE = Resources().group_size


@dataclass(frozen=True)
class Job:
    """A stage as the simulation sees it: a :class:`driving.tasks.Task` with seconds.

    Attributes:
        key: names it; unique.
        kind: train, fuse, search, evaluate, validate or import; trial: one of a search. An import is done by the driver
            before anything starts.
        seconds: of one worker; for a search, of all its trials together; for a data-parallel stage, the wall time on
            all its workers.
        needs: keys of the jobs that must be done before.
        priority: of the ready jobs the one with the highest starts first; of equals the one that was ready first.
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
    def label(self) -> str:
        """The key."""
        return self.key

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
    """0 where it holds none: an import, and a search, whose trials are separate runs."""


@dataclass(frozen=True)
class Schedule:
    """A simulated run."""

    slots: int
    runs: tuple[Run, ...]

    @property
    def makespan(self) -> float:
        """Seconds from the start of the first workers to the end of the last stage; without the start of Ray."""
        return max((run.end for run in self.runs), default=0.0)

    @property
    def device_seconds(self) -> float:
        """Seconds of work, over all devices."""
        return sum(run.job.device_seconds for run in self.runs if run.slots)

    @property
    def utilisation(self) -> float:
        """Work as a fraction of what the slots could have done."""
        return self.device_seconds / (self.slots * self.makespan) if self.makespan else 1.0


def simulate(
    jobs: Sequence[Job],
    slots: int | Sequence[int],
    *,
    group_size: int = GROUP_SIZE,
    most: int | None = None,
    at_once: bool = False,
) -> Schedule:
    """Run jobs on so many slots as the driver would.

    Args:
        jobs: inputs before what uses them; a need that is no job here counts as done.
        slots: workers that fit at once; a sequence: on each node.
        group_size: the most workers of one Ray Train group.
        most: the most workers at once; None: all that fit.
        at_once: whether the first worker brings along the others, as on your own machine.

    Raises:
        ValueError: a data-parallel job needs more workers than there are slots.

    Example:
        >>> base, expert = Job("base", "train", 60.0), Job("expert", "train", 30.0, needs=("base",))
        >>> round(simulate([base, expert], 1).makespan)  # a fit starts in 7 s
        97
    """
    nodes = [slots] if isinstance(slots, int) else list(slots)
    count = min(sum(nodes), most or sum(nodes))
    if count < 1:
        raise ValueError(f"a schedule needs at least one worker, not {count}")
    widest = max((job.workers for job in jobs), default=1)
    if widest > count:
        raise ValueError(
            f"resources.workers_per_run is {widest}, but only {counted(count, 'worker fits', 'workers fit')}"
        )
    return Schedule(count, tuple(_Simulation(jobs, nodes, group_size, most, at_once).run()))


@dataclass
class _Search:
    """A search that is under way: trials ``left`` to be proposed, and ``open`` ones that have not ended."""

    job: Job
    worker: str
    began: float
    left: int
    open: int


class _Simulation:
    """The state between two events.

    Attributes:
        idle: workers that may train and wait for a job.
        members: name of a group -> how many of its workers have not left.
        heard: ends that the driver has just heard of.
        searches: key of a search that is under way -> when it began, and its trials: to be proposed, not at an end.
    """

    def __init__(
        self, jobs: Sequence[Job], nodes: Sequence[int], group_size: int, most: int | None, at_once: bool
    ) -> None:
        self.nodes = {str(number): count for number, count in enumerate(nodes)}
        # The driver imports checkpoints before it starts anything.
        imports = [job for job in jobs if job.kind == "import"]
        self.runs = [Run(job, 0.0, 0.0, "driver", 0) for job in imports]
        stored = {job.key for job in imports}
        self.scheduler: Scheduler[Job] = Scheduler(jobs, stored, group_size=group_size, most=most, at_once=at_once)
        self.now = self.asks = 0.0
        self.queue: Dispatcher[Job] = Dispatcher(clock=lambda: self.now)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.counted = 0
        self.idle: list[str] = []
        self.members: dict[str, int] = {}
        self.searches: dict[str, _Search] = {}
        self.heard: list[str] = []

    def run(self) -> list[Run]:
        """The runs of all jobs, in the order of their starts."""
        self._offer()
        self._settle()
        while self.events:
            self.now = self.events[0][0]
            while self.events and self.events[0][0] <= self.now + 1e-9:
                heapq.heappop(self.events)[2]()
            self._settle()
        return self.runs

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self.counted += 1
        heapq.heappush(self.events, (self.now + seconds, self.counted, what))

    def _offer(self) -> None:
        """Queue the jobs that have become ready, as the driver does at each look."""
        if offered := self.scheduler.offer():
            self.queue.offer(offered, self.scheduler.after(offered))

    def _settle(self) -> None:
        """Let idle workers ask for a job, then let the driver start what it can."""
        asked = True
        while asked:
            self._ask()
            asked = self._propose()
        ready = self.queue.counts()
        for started in self.scheduler.start(self.nodes, Counts(ready.to_train, ready.others, len(self.idle)), self.now):
            self._start(started)
        if self.heard:
            self.queue.noted(self.heard)
            self.heard = []
            self._settle()

    def _ask(self) -> None:
        """Let idle workers ask until one waits for nothing in particular: the next ones would wait as well."""
        waiting: list[str] = []
        while self.idle:
            worker = self.idle.pop()
            if not self._take(worker, trains=True):
                waiting.append(worker)
                if worker not in self.queue.coming.promised:
                    break
        self.idle += reversed(waiting)

    def _start(self, started: Reservation[Job]) -> None:
        if started.pulls:
            trains = started.kind == "group"
            self.members[started.name] = started.slots
            names = [f"{started.name}{rank}" for rank in range(started.slots)]
            self._after(FIT_START if trains else TASK_START, lambda: self._arrive(names, trains))
            return
        job = started.task
        assert job is not None
        self.queue.assign(started.name, job, self.scheduler.after([job]))
        if started.kind == "run":
            release = lambda: self._release(started.name, FIT_END)  # noqa: E731
            self._work(job, FIT_START, job.seconds, started.name, started.slots, release)
        else:
            self.searches[job.key] = _Search(job, started.name, self.now, job.trials, job.trials)
            self.queue.expect(job.key, job.trials)
            self._after(0.0, lambda: None)

    def _propose(self) -> bool:
        """Let the searches propose the trials that workers wait for; returns whether there are any."""
        wanted = [self.searches[event.digest] for event in self.queue.news() if event.kind == "wanted"]
        for search in wanted:
            job, search.left = search.job, search.left - 1
            key = f"{job.key}#{search.left}"
            trial = Job(key, "trial", job.shortest, priority=job.priority)
            self.queue.offer([trial])
        return bool(wanted)

    def _trial_ended(self, search: _Search) -> None:
        """After the last one the search stores its winner."""
        search.open -= 1
        if not search.open:
            self.runs.append(Run(search.job, search.began, self.now + SEARCH_END, search.worker, 0))
            self._after(SEARCH_END, lambda: self._search_ended(search))

    def _search_ended(self, search: _Search) -> None:
        self.queue.finish(search.worker, search.job.key)
        self._after(OFFER, lambda: self._notice(search.job))
        self._release(search.worker, OFFER)

    def _arrive(self, names: Sequence[str], trains: bool) -> None:
        if trains:
            self.idle += reversed(names)
            return
        for name in names:
            self._take(name, trains=False)

    def _take(self, worker: str, trains: bool) -> bool:
        """A worker asks for a job; False: it waits."""
        answer = self.queue.give(worker, trains)
        if isinstance(answer, Job):
            self.scheduler.begun(worker)
            self._work(answer, TAKE, answer.seconds, worker, 1, lambda: self._finished(worker, trains))
        elif answer == "leave":
            self._left(f"{worker.rpartition('/')[0]}/", trains)
        else:
            self._ask_again()
        return answer != "wait"

    def _ask_again(self) -> None:
        """Let idle workers ask again when they may leave. While jobs run, the next end comes first."""
        at = self.queue.last_news + GRACE + ASK
        if at > self.asks and not self.queue.busy:
            self.asks = at
            self._after(at - self.now, lambda: None)

    def _work(self, job: Job, wait: float, seconds: float, worker: str, slots: int, then: Callable[[], None]) -> None:
        start = self.now + wait
        self.runs.append(Run(job, start, start + seconds, worker, slots))

        def ended() -> None:
            self.queue.finish(worker, job.key)
            if job.kind == "trial":
                self._trial_ended(self.searches[search_of(job.key)])
            else:
                self._after(OFFER, lambda: self._notice(job))
            then()

        self._after(wait + seconds, ended)

    def _notice(self, job: Job) -> None:
        """The driver hears that a job is done."""
        self.scheduler.done(job.key)
        self._offer()
        self.heard.append(job.key)

    def _finished(self, worker: str, trains: bool) -> None:
        if trains:
            self.idle.append(worker)
        else:
            self._take(worker, trains)

    def _left(self, name: str, trains: bool) -> None:
        """A worker has left; the slots of a group are free when all its workers have."""
        self.members[name] -= 1
        if not self.members[name]:
            self._release(name, FIT_END if trains else OFFER)

    def _release(self, name: str, seconds: float) -> None:
        self._after(seconds, lambda: self.scheduler.ended(name))
