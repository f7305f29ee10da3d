"""Runs the missing stages of a plan on a Ray cluster: carries out what the scheduling rules decide.

The rules are in :mod:`driving.scheduler` (what is started) and :mod:`driving.dispatcher` (which worker gets what). The
driver looks at the cluster and at the queue several times a second, tells the scheduler what it saw, and starts what
the scheduler names.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fusiondistill_runner.driving.dispatcher import Counts, Event
from fusiondistill_runner.driving.interruption import keep_epochs
from fusiondistill_runner.driving.launches import Launch, Launcher, give_back
from fusiondistill_runner.driving.queue import StageQueue
from fusiondistill_runner.driving.scheduler import LATE, Scheduler
from fusiondistill_runner.driving.tasks import TRAINS, StageTask, tasks_of
from fusiondistill_runner.nodes.capacity import Capacity
from fusiondistill_runner.nodes.cluster import check_together, on_node
from fusiondistill_runner.nodes.connection import cluster_address
from fusiondistill_runner.nodes.growing import patience
from fusiondistill_runner.nodes.orphans import Scratch
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.searching import search
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context

__all__ = ["Driver", "Outcome"]

TICK = 0.2
"""Seconds between two looks at the queue, if it has no news before."""
PAUSE = 0.02
"""Seconds between two looks at least."""
WITHOUT_NODES = 600.0
"""Seconds after which the driver ends a run that has no node for a worker."""


@dataclass
class Outcome:
    """How a run ended."""

    done: list[Stage] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Directory of a stage (or ``workers``) -> its error."""
    blocked: list[Stage] = field(default_factory=list)
    """Stages whose inputs failed."""
    fits: int = 0
    """Ray Train fits that the run cost."""


class Driver:
    """One run over the missing stages of a plan.

    Args:
        ray: the connected module.
        stored: digests that need no work.
        display: is told about every stage that starts, gets on, ends, and about nodes that come and go.
        capacity: where workers fit.

    Raises:
        ValueError: a data-parallel run needs more workers than fit.
    """

    def __init__(
        self,
        ray: Any,
        plan: Plan,
        store: Store,
        context: Context,
        stored: set[str],
        display: Any,
        capacity: Capacity,
    ) -> None:
        self.ray, self.store, self.display, self.capacity = ray, store, display, capacity
        resources = plan.config.resources
        check_together(resources, capacity.slots, f"(nodes: {capacity.described})")
        self.by_digest = {stage.digest: stage for stage in plan.stages}
        self.scheduler: Scheduler[StageTask] = Scheduler(
            tasks_of(plan.stages), stored, group_size=resources.group_size, most=resources.workers,
            at_once=cluster_address() is None,
        )  # fmt: skip
        self.launches: list[Launch] = []
        self.threads: list[threading.Thread] = []
        self.last_slots = time.monotonic()
        self.outcome = Outcome()
        self.unreturned = self.ending = self.imports_ahead = False
        # On the driver's node: another one may leave, and what the queue knows would be lost with it.
        here = on_node(ray.get_runtime_context().get_node_id())
        self.queue = ray.remote(StageQueue).options(num_cpus=0, scheduling_strategy=here).remote()
        self.scratch = Scratch()
        self.launcher = Launcher(ray, self.queue, context, capacity.share, self.scratch.name, lambda: self.ending)

    def run(self, check: Callable[[], None]) -> Outcome:
        """Run until nothing is left to do; ``check`` is called often, at points where it is safe to raise.

        The run ends where workers cannot be started; the outcome says why.
        """
        with self.scratch:
            try:
                self._walk(check)
                if self.outcome.failed:
                    check()  # raises where the loss of the store made them fail
            finally:
                self.ending = True
                self.launcher.close()
        left = [self.by_digest[digest] for digest in self.scheduler.missing]
        self.outcome.blocked = [stage for stage in left if stage.directory not in self.outcome.failed]
        return self.outcome

    def _walk(self, check: Callable[[], None]) -> None:
        while "workers" not in self.outcome.failed:
            try:
                check()
            except KeyboardInterrupt:
                if self.store.remote:  # on a disk every epoch is stored
                    keep_epochs(self.ray, self.queue)
                raise
            for text in self.capacity.refresh():
                self.display.say(text)
            self._collect()  # before the news, so that the tasks of dead workers are part of it
            news, counts = self.ray.get(self.queue.poll_soon.remote(TICK))
            for event in news:
                self._take_note(event)
            counts = self._offer(counts)
            self._start(counts)
            if done := [event.digest for event in news if event.kind == "done"]:
                self.queue.noted.remote(done)
            if self.scheduler.is_late(time.monotonic()):
                # Ray waits without a word for room that others hold on a shared cluster.
                self.display.say(
                    f"no worker after {LATE:.0f} s: Ray waits for room, which others may hold (`ray status`)"
                )
            if not (counts.to_train or counts.others or news) and self.scheduler.idle:
                break
            self._wait_for_nodes()
            time.sleep(PAUSE)

    def _wait_for_nodes(self) -> None:
        """End the run where all nodes have been gone for too long; before that, nodes may come back."""
        if self.capacity.slots:
            self.last_slots = time.monotonic()
        elif time.monotonic() - self.last_slots > (limit := max(WITHOUT_NODES, patience())):
            self.outcome.failed["workers"] = f"no node for them has been there for {limit:.0f} s"

    def leave(self) -> None:
        """Wait up to 2 s for the threads that are left; Ray is shut down by now, so that their calls return."""
        limit = time.monotonic() + 2
        for thread in (*self.threads, *(launch.thread for launch in self.launches)):
            thread.join(timeout=max(0.0, limit - time.monotonic()))

    def _take_note(self, event: Event) -> None:
        self.scheduler.begun(event.worker)
        if event.kind == "done":
            self._import_ahead()
            self.scheduler.worked()
        if self.launcher.tell(event):
            return
        stage = self.by_digest[event.digest]
        if event.kind == "done":
            self.scheduler.done(event.digest)
            self.outcome.done.append(stage)
        elif event.kind == "failed":
            self.outcome.failed[stage.directory] = event.facts["error"]
        elif event.kind == "lost":
            self.scheduler.lost(event.digest)
        self.display.note(stage, event)

    def _import_ahead(self) -> None:
        """Once a first stage is done, import what a search will need."""
        if not self.imports_ahead and any(task.kind == "search" for task in self.scheduler.missing.values()):
            self.imports_ahead = True
            threading.Thread(target=_import_ahead, daemon=True).start()

    def _offer(self, counts: Counts) -> Counts:
        """Put what has become ready into the queue; returns what waits there now."""
        offered = self.scheduler.offer()
        if offered:
            self.ray.get(self.queue.offer.remote(offered, self.scheduler.after(offered)))
        to_train = sum(task.kind in TRAINS for task in offered)
        return Counts(counts.to_train + to_train, counts.others + len(offered) - to_train, counts.idle)

    def _collect(self) -> None:
        """Give back the slots of the workers that ended, and let the queue take back their unfinished stages."""
        for launch in list(self.launches):
            left = launch.node is not None and launch.node not in self.capacity.nodes
            if launch.thread.is_alive() and not (left and launch.overdue()):
                continue
            self.launches.remove(launch)
            self.threads += [launch.thread] if launch.thread.is_alive() else []
            self.unreturned = self.unreturned or launch.unreturned
            lost = self.ray.get(self.queue.lose.remote(launch.name, launch.why, launch.blamed))
            # The queue counts the attempts of a stage that kills its worker.
            self.scheduler.ended(launch.name, failed=launch.error is not None and not lost and not left)
            if self.scheduler.given_up and "workers" not in self.outcome.failed:
                self.outcome.failed["workers"] = f"they cannot be kept running: {launch.error}"

    def _start(self, counts: Counts) -> None:
        """Start what the scheduler names, after giving back the slots that a failed group has left reserved."""
        if self.unreturned:
            if self.launches:
                return  # Ray does not say which reservations are theirs
            if count := give_back(self.ray):
                self.display.say(f"gave back what a failed group had reserved ({count} placement groups)")
            self.unreturned = False
        for reservation in self.scheduler.start(self.capacity.nodes, counts, time.monotonic()):
            self.outcome.fits += reservation.kind in ("group", "run")
            if (task := reservation.task) is not None:  # no worker pulls it, so the queue has to be told
                self.ray.get(self.queue.assign.remote(reservation.name, task, self.scheduler.after([task])))
            self.launches.append(self.launcher.launch(reservation, self.capacity.refused))


def _import_ahead() -> None:
    with contextlib.suppress(Exception):  # the search imports the same and says what is wrong
        search.import_ahead()
