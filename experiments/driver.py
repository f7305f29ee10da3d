"""Walks the graph: skips what is stored, offers ready stages to workers, starts workers as resources allow.

Training is done by Ray Train worker groups that pull from the queue until nothing is ready; fusion and evaluation are
pulled by the same workers, or by plain Ray tasks when there is nothing to train. A search is a Ray Tune job. A
data-parallel stage gets a fit of its own. What is handed out never exceeds what the cluster has, so nothing deadlocks.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from experiments import search
from experiments.cluster import Share, nodes_of, share_of, slots
from experiments.materials import Context
from experiments.plan import Plan
from experiments.queue import Event, StageQueue
from experiments.stage import SearchSpec, Stage, TrainSpec
from experiments.stages import note_error
from experiments.store import Store
from experiments.workers import describe, group_loop, run_loop, task_loop
from fusiondistill.config import Resources

__all__ = ["Driver", "Outcome", "priorities"]

TICK = 0.2
FIT_FAILURES = 3
"""A fit that fails so often without any stage getting on ends the run."""


@dataclass
class Outcome:
    """How a run ended."""

    done: list[Stage] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Name and seed of a stage -> its error."""
    blocked: list[Stage] = field(default_factory=list)
    """Stages whose inputs failed."""
    fits: int = 0
    """Ray Train fits that the run cost."""


def priorities(stages: tuple[Stage, ...]) -> dict[str, float]:
    """Longest path first: a stage's work plus the longest work that waits for it, by digest."""
    longest: dict[str, float] = {}
    for stage in reversed(stages):
        own = longest.setdefault(stage.digest, 0.0) + stage.work
        longest[stage.digest] = own
        for needed in stage.inputs.values():
            longest[needed.digest] = max(longest.get(needed.digest, 0.0), own)
    return longest


class _Hand:
    """Something that holds slots: a worker group, a plain worker, a search, a data-parallel fit."""

    def __init__(self, name: str, slots: int, run: Callable[[], Any]) -> None:
        self.name, self.slots = name, slots
        self.error: BaseException | None = None
        self.started = time.monotonic()
        self.thread = threading.Thread(target=self._guarded, args=(run,), name=name, daemon=True)
        self.thread.start()

    def _guarded(self, run: Callable[[], Any]) -> None:
        try:
            run()
        except BaseException as error:
            self.error = error


class Driver:
    """One run over the missing stages of a plan.

    Args:
        ray: the connected module.
        stored: digests that need no work.
        on_event: told about every stage that starts, gets on, ends.

    Raises:
        ValueError: no node can hold a worker.
    """

    def __init__(
        self,
        ray: Any,
        plan: Plan,
        store: Store,
        context: Context,
        stored: set[str],
        on_event: Callable[[Stage, Event], None],
    ) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.ray, self.plan, self.store, self.context, self.on_event = ray, plan, store, context, on_event
        self.resources: Resources = plan.config.resources
        nodes = nodes_of(ray)
        self.share: Share = share_of(self.resources, nodes)
        self.slots = slots(self.share, nodes, self.resources.workers)
        if self.resources.workers_per_run > self.slots:
            raise ValueError(
                f"resources.workers_per_run is {self.resources.workers_per_run}, but only {self.slots} workers fit"
            )
        self.by_digest = {stage.digest: stage for stage in plan.stages}
        self.priority = priorities(plan.stages)
        self.missing = {s.digest for s in plan.stages} - stored
        self.handed_out: set[str] = set()
        self.searches: list[Stage] = []
        self.parallel: list[Stage] = []
        self.hands: list[_Hand] = []
        self.outcome = Outcome()
        self.bad_fits = 0
        self.started_hands = 0
        self.seen_workers: set[str] = set()
        # Beside the driver: on a node of its own choice it would be lost with that node, and the run with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.queue = ray.remote(StageQueue).options(num_cpus=0, scheduling_strategy=here).remote()
        self.scratch = tempfile.TemporaryDirectory(prefix="fusiondistill-ray-")

    def run(self, check: Callable[[], None]) -> Outcome:
        """Run until nothing is left to do; ``check`` is called often, at points where it is safe to raise.

        Workers that cannot be started end the run: the outcome says why.
        """
        with self.scratch:
            while "workers" not in self.outcome.failed:
                check()
                self._collect()  # before the news, so that what a dead worker leaves behind is part of them
                news, to_train, others, idle = self.ray.get(self.queue.poll.remote())
                for event in news:
                    self._take_note(event)
                for stage in self._offer():
                    to_train, others = to_train + (stage.kind == "train"), others + (stage.kind != "train")
                self._start_hands(to_train, others, idle)
                if not (self.hands or to_train or others or self.searches or self.parallel or news):
                    break
                time.sleep(TICK)
        self.outcome.blocked = [self.by_digest[d] for d in self.missing if not self._failed(d)]
        return self.outcome

    def _failed(self, digest: str) -> bool:
        return self._label(self.by_digest[digest]) in self.outcome.failed

    @staticmethod
    def _label(stage: Stage) -> str:
        return f"{stage.name} (seed {stage.seed})"

    def _take_note(self, event: Event) -> None:
        stage = self.by_digest[event.digest]
        self.seen_workers.add(event.worker)
        if event.kind == "done":
            self.missing.discard(event.digest)
            self.outcome.done.append(stage)
            self.bad_fits = 0
        elif event.kind == "failed":
            self.outcome.failed[self._label(stage)] = event.facts["error"]
        self.on_event(stage, event)

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
            elif isinstance(stage.spec, TrainSpec) and stage.spec.world_size > 1:
                self.parallel.append(stage)
            else:
                offered.append((self.priority[stage.digest], stage))
        if offered:
            self.ray.get(self.queue.offer.remote(offered))
        return [stage for _, stage in offered]

    def _free(self) -> int:
        return self.slots - sum(hand.slots for hand in self.hands)

    def _collect(self) -> None:
        """Give back the slots of whatever ended, and make sure that nothing it was at is forgotten."""
        for hand in [h for h in self.hands if not h.thread.is_alive()]:
            self.hands.remove(hand)
            lost = self.ray.get(self.queue.lose.remote(hand.name))
            if hand.error is None or lost:
                continue  # a stage that kills its worker is counted by the queue
            self.bad_fits += 1
            if self.bad_fits >= FIT_FAILURES:
                self.outcome.failed["workers"] = f"they cannot be kept running: {hand.error}"

    def _start_hands(self, to_train: int, others: int, idle: int) -> None:
        self._start_parallel()
        starting = sum(h.slots for h in self.hands if h.name.startswith(("group", "task")) and not self._seen(h))
        wanted = min(to_train + others - idle - starting, self._free())
        if wanted > 0 and to_train:
            for start in range(0, wanted, self.resources.group_size):
                self._start_group(min(self.resources.group_size, wanted - start))
        elif wanted > 0:
            for _ in range(wanted):
                self._start_task()
        while wanted <= 0 and self.searches and self._free() > 0:
            share = -(-self._free() // len(self.searches))
            self._start_search(self.searches.pop(0), share)

    def _seen(self, hand: _Hand) -> bool:
        return any(w.startswith(hand.name) for w in self.seen_workers)

    def _name(self, kind: str) -> str:
        self.started_hands += 1
        return f"{kind}{self.started_hands}/"

    def _start_group(self, size: int) -> None:
        name = self._name("group")
        config = {"queue": self.queue, "group": name, "context": self.context}
        self.outcome.fits += 1
        self.hands.append(_Hand(name, size, lambda: self._fit(name, size, group_loop, config, "gloo")))

    def _start_task(self) -> None:
        name = self._name("task")
        self.hands.append(_Hand(name, 1, lambda: self._task(name)))

    def _task(self, name: str) -> None:
        remote = self.ray.remote(task_loop).options(
            num_cpus=self.share.cpus, num_gpus=self.share.gpus or None, max_retries=0
        )
        self.ray.get(remote.remote(self.queue, f"{name}0", self.context))

    def _start_parallel(self) -> None:
        for stage in list(self.parallel):
            size = self.resources.workers_per_run
            if self._free() < size:
                return
            self.parallel.remove(stage)
            self.outcome.fits += 1
            name = self._name("run") + stage.directory
            self.ray.get(self.queue.assign.remote(name, self.priority[stage.digest], stage))
            config = {"queue": self.queue, "worker": name, "context": self.context, "stage": stage}
            backend = "nccl" if self.share.gpus >= 1 else "gloo"
            self.hands.append(_Hand(name, size, partial(self._fit, name, size, run_loop, config, backend)))

    def _fit(self, name: str, size: int, loop: Callable[..., Any], config: dict[str, Any], backend: str) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        TorchTrainer(
            loop,
            train_loop_config=config,
            torch_config=TorchConfig(backend=backend),
            scaling_config=ScalingConfig(
                num_workers=size, use_gpu=self.share.gpus > 0, resources_per_worker=self.share.resources
            ),
            run_config=RunConfig(
                name=name.replace("/", "_"),
                storage_path=self.scratch.name,
                failure_config=FailureConfig(max_failures=FIT_FAILURES, controller_failure_limit=FIT_FAILURES),
            ),
        ).fit()

    def _start_search(self, stage: Stage, most: int) -> None:
        assert isinstance(stage.spec, SearchSpec)
        at_once = min(most, stage.spec.trials)

        def run() -> None:
            worker = f"search/{stage.directory}"
            call = self.queue
            self.ray.get(call.assign.remote(worker, self.priority[stage.digest], stage))
            try:
                search.run(
                    stage,
                    self.context,
                    self.share,
                    at_once=at_once,
                    scratch=self.scratch.name,
                    report=lambda facts: call.report.remote(worker, facts),
                )
            except Exception as problem:
                note_error(stage, self.context, describe(problem))
                self.ray.get(call.finish.remote(worker, stage.digest, describe(problem), False))
            else:
                self.ray.get(call.finish.remote(worker, stage.digest, None, False))

        self.hands.append(_Hand(f"search/{stage.directory}", at_once, run))
