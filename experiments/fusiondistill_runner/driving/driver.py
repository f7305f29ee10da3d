"""Walks the graph: skips what is stored, offers ready stages to workers, starts workers as resources allow.

Training is done by Ray Train worker groups that pull from the queue until nothing is ready; fusion and evaluation are
pulled by the same workers, or by plain Ray tasks when there is nothing to train. A search is a Ray Tune job. A
data-parallel stage gets a fit of its own. What is handed out never exceeds what the cluster has, so nothing deadlocks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fusiondistill.config import Resources
from fusiondistill_runner.driving.hands import FIT_FAILURES, Hand, fit, give_back, pull
from fusiondistill_runner.driving.interruption import keep_epochs
from fusiondistill_runner.driving.queue import Event, StageQueue
from fusiondistill_runner.driving.workers import group_loop, run_loop, search_loop, task_loop
from fusiondistill_runner.nodes.cluster import labels_of, on_node, patience
from fusiondistill_runner.nodes.orphans import Scratch
from fusiondistill_runner.nodes.room import Room
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.search_space import candidate_count
from fusiondistill_runner.planning.specs import SearchSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage, priorities
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.materials import Context

__all__ = ["Driver", "Outcome"]

TICK = 0.2
LATE = 90.0
"""Seconds after which a worker group that does nothing is told of."""
WITHOUT_NODES = 600.0
"""Seconds without any node that could hold a worker after which a run ends."""


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


def _needs_a_fit(stage: Stage) -> bool:
    """Whether a stage is data-parallel itself."""
    return isinstance(stage.spec, TrainSpec) and stage.spec.world_size > 1


class Driver:
    """One run over the missing stages of a plan.

    Args:
        ray: the connected module.
        stored: digests that need no work.
        display: is told about every stage that starts, gets on, ends, and about nodes that come and go.
        room: where workers fit.

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
        room: Room,
    ) -> None:
        self.ray, self.plan, self.store, self.context, self.display = ray, plan, store, context, display
        self.resources: Resources = plan.config.resources
        self.room, self.share = room, room.share
        if self.resources.workers_per_run > room.slots:
            raise ValueError(
                f"resources.workers_per_run is {self.resources.workers_per_run}, but only {room.slots} workers fit "
                f"(nodes: {room.described}); lower it, or what a worker holds (resources)"
            )
        self.by_digest = {stage.digest: stage for stage in plan.stages}
        self.priority = priorities(plan.stages)
        self.missing = {s.digest for s in plan.stages} - stored
        self.handed_out: set[str] = set()
        self.searches: list[Stage] = []
        self.parallel: list[Stage] = []
        self.hands: list[Hand] = []
        self.threads: list[threading.Thread] = []
        self.last_room = time.monotonic()
        self.outcome = Outcome()
        self.bad_fits = 0
        self.reserved = False
        self.ending = self.said_late = False
        self.started_hands = 0
        self.seen_workers: set[str] = set()
        # On this node: another one may leave, and what the queue knows with it.
        here = on_node(ray.get_runtime_context().get_node_id())
        self.queue = ray.remote(StageQueue).options(num_cpus=0, scheduling_strategy=here).remote()
        self.scratch = Scratch()

    def run(self, check: Callable[[], None]) -> Outcome:
        """Run until nothing is left to do; ``check`` is called often, at points where it is safe to raise.

        Workers that cannot be started end the run: the outcome says why.
        """
        with self.scratch:
            try:
                self._walk(check)
                if self.outcome.failed:
                    check()  # it may be for the store's sake
            finally:
                self.ending = True
        self.outcome.blocked = [self.by_digest[d] for d in self.missing if not self._failed(d)]
        return self.outcome

    def _walk(self, check: Callable[[], None]) -> None:
        while "workers" not in self.outcome.failed:
            try:
                check()
            except KeyboardInterrupt:
                if self.store.remote:  # on a disk every epoch is stored
                    keep_epochs(self.ray, self.queue)
                raise
            for text in self.room.refresh():
                self.display.say(text)
            self._collect()  # before the news, so that what a dead worker leaves behind is part of them
            news, to_train, others, idle = self.ray.get(self.queue.poll.remote())
            for event in news:
                self._take_note(event)
            for stage in self._offer():
                to_train, others = to_train + (stage.kind == "train"), others + (stage.kind != "train")
            self._start_hands(to_train, others, idle)
            self._say_if_late()
            if not (self.hands or to_train or others or self.searches or self.parallel or news):
                break
            self._wait_for_nodes()
            time.sleep(TICK)

    def _wait_for_nodes(self) -> None:
        """Nodes that are all gone may come back, but not for ever."""
        if self.room.slots:
            self.last_room = time.monotonic()
        elif time.monotonic() - self.last_room > (limit := max(WITHOUT_NODES, patience())):
            self.outcome.failed["workers"] = f"no node for them has been there for {limit:.0f} s"

    def leave(self) -> None:
        """Wait a little for the threads of what was given up; Ray, shut down by now, has let go of them."""
        limit = time.monotonic() + 2
        for thread in (*self.threads, *(hand.thread for hand in self.hands)):
            thread.join(timeout=max(0.0, limit - time.monotonic()))

    def _failed(self, digest: str) -> bool:
        return self.by_digest[digest].directory in self.outcome.failed

    def _take_note(self, event: Event) -> None:
        stage = self.by_digest[event.digest]
        self.seen_workers.add(event.worker)
        if event.kind == "done":
            self.missing.discard(event.digest)
            self.outcome.done.append(stage)
            self.bad_fits = 0
        elif event.kind == "failed":
            self.outcome.failed[stage.directory] = event.facts["error"]
        elif event.kind == "lost" and _needs_a_fit(stage):
            self.parallel.append(stage)  # what workers pull the queue hands out again itself
        elif event.kind == "lost" and stage.kind == "search":
            self.searches.append(stage)
        self.display.note(stage, event)

    def _ready(self) -> list[Stage]:
        return [
            stage
            for stage in self.plan.stages
            if stage.digest in self.missing
            and stage.digest not in self.handed_out
            and not any(needed.digest in self.missing for needed in stage.inputs.values())
        ]

    def _offer(self) -> list[Stage]:
        """Hand ready stages to where they belong; returns those that went to the queue."""
        offered = []
        for stage in self._ready():
            self.handed_out.add(stage.digest)
            if stage.kind == "search":
                self.searches.append(stage)
            elif _needs_a_fit(stage):
                self.parallel.append(stage)
            else:
                offered.append((self.priority[stage.digest], stage))
        if offered:
            self.ray.get(self.queue.offer.remote(offered))
        return [stage for _, stage in offered]

    def _collect(self) -> None:
        """Give back the slots of whatever ended, and make sure that nothing it was at is forgotten."""
        for hand in list(self.hands):
            left = hand.node is not None and hand.node not in self.room.nodes
            if hand.thread.is_alive() and not (left and hand.overdue()):
                continue
            self.hands.remove(hand)
            self.threads += [hand.thread] if hand.thread.is_alive() else []
            self.reserved = self.reserved or hand.unstarted
            lost = self.ray.get(self.queue.lose.remote(hand.name, hand.why, hand.blamed))
            if hand.error is None or lost or left or not hand.name.startswith(("group", "task")):
                continue  # a stage that kills its worker is counted by the queue
            self.bad_fits += 1
            if self.bad_fits >= FIT_FAILURES:
                self.outcome.failed["workers"] = f"they cannot be kept running: {hand.error}"

    def _start_hands(self, to_train: int, others: int, idle: int) -> None:
        if self.reserved:
            if self.hands:
                return  # what is left over cannot be told from what they hold
            if count := give_back(self.ray):
                self.display.say(f"gave back what a failed start had reserved ({count} placement groups)")
            self.reserved = False
        self._start_parallel()
        starting = sum(h.slots for h in self.hands if h.name.startswith(("group", "task")) and not self._seen(h))
        free = self.room.free(self.hands)
        wanted = min(to_train + others - idle - starting, free.total)
        for node, room in free.on.items():
            size = min(room, wanted)
            wanted -= max(0, size)
            for start in range(0, size, self.resources.group_size) if to_train else ():
                self._start_group(min(self.resources.group_size, size - start), node)
            for _ in range(0 if to_train else size):
                self._start_task(node)
        while wanted <= 0 and self.searches and (left := self.room.free(self.hands).total) > 0:
            self._start_search(self.searches.pop(0), -(-left // (len(self.searches) + 1)))

    def _say_if_late(self) -> None:
        """Ray waits without a word for room that others hold on a shared cluster."""
        late = [hand for hand in self.hands if hand.name.startswith("group") and not self._seen(hand)]
        if not self.said_late and any(time.monotonic() - hand.began > LATE for hand in late):
            self.said_late = True
            self.display.say(f"no worker after {LATE:.0f} s: Ray waits for room, which others may hold (`ray status`)")

    def _seen(self, hand: Hand) -> bool:
        return any(w.startswith(hand.name) for w in self.seen_workers)

    def _name(self, kind: str) -> str:
        self.started_hands += 1
        return f"{kind}{self.started_hands}/"

    def _start_group(self, size: int, node: str) -> None:
        name = self._name("group")
        config = {"queue": self.queue, "group": name, "context": self.context}
        self.outcome.fits += 1
        self.hands.append(Hand(name, size, self._fit(name, size, group_loop, config, node=node), node))

    def _start_task(self, node: str) -> None:
        name = self._name("task")
        arguments = (self.queue, f"{name}0", self.context)
        self.hands.append(Hand(name, 1, partial(pull, task_loop, arguments, share=self.share, node=node), node))

    def _start_parallel(self) -> None:
        for stage in list(self.parallel):
            size = self.resources.workers_per_run
            if self.room.free(self.hands).total < size:
                return
            self.parallel.remove(stage)
            self.outcome.fits += 1
            name = self._name("run") + stage.directory
            self.ray.get(self.queue.assign.remote(name, self.priority[stage.digest], stage))
            config = {"queue": self.queue, "worker": name, "context": self.context, "stage": stage}
            backend = "nccl" if self.share.gpus >= 1 else "gloo"
            self.hands.append(Hand(name, size, self._fit(name, size, run_loop, config, backend)))

    def _fit(
        self,
        name: str,
        size: int,
        loop: Callable[..., Any],
        config: dict[str, Any],
        backend: str | None = None,
        node: str | None = None,
    ) -> Callable[[], None]:
        scratch, labels = self.scratch.name, labels_of(node, self.room.refused)
        return partial(
            fit, loop, config, name=name, size=size, share=self.share, scratch=scratch, backend=backend, labels=labels
        )

    def _start_search(self, stage: Stage, most: int) -> None:
        assert isinstance(stage.spec, SearchSpec)
        at_once, labels = min(most, candidate_count(stage.spec)), labels_of(None, self.room.refused)
        worker = f"search/{stage.directory}"
        self.ray.get(self.queue.assign.remote(worker, self.priority[stage.digest], stage))
        run = partial(
            search_loop, self.queue, worker, stage, self.context, lambda: self.ending,
            share=self.share, labels=labels, at_once=at_once, scratch=self.scratch.name,
        )  # fmt: skip
        self.hands.append(Hand(worker, at_once, run))
