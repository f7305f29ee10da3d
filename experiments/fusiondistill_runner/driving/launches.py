"""Threads that carry out what the scheduler starts: each waits for a Ray Train fit or a Ray task, or is a search."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from fusiondistill_runner.driving.dispatcher import Event
from fusiondistill_runner.driving.scheduler import FAILED_STARTS, Reservation
from fusiondistill_runner.driving.tasks import StageTask, search_of
from fusiondistill_runner.driving.workers import group_loop, run_loop, search_loop, task_loop
from fusiondistill_runner.nodes.cluster import Share, labels_of, on_node
from fusiondistill_runner.nodes.connection import cluster_address
from fusiondistill_runner.searching.search import Inbox
from fusiondistill_runner.working.context import Context

__all__ = ["Launch", "Launcher", "give_back"]

PATIENCE = 20.0
"""Seconds after which the driver gives up a launch on a lost node that Ray still waits for."""


class Launch:
    """A thread that ends when what it has started holds no slots any more.

    Args:
        name: of the reservation that it carries out.
        node: where that is; None: on any node.
    """

    def __init__(self, name: str, run: Callable[[], Any], node: str | None = None) -> None:
        self.name, self.node = name, node
        self.error: BaseException | None = None
        self.left: float | None = None
        self.thread = threading.Thread(target=self._guarded, args=(run,), name=name, daemon=True)
        self.thread.start()

    @property
    def blamed(self) -> set[str] | None:
        """The workers that died by themselves, not because another one of their group did; None: Ray does not say.

        The queue knows the workers of a data-parallel run by one name, that of the run.
        """
        failures = getattr(self.error, "worker_failures", None) if self.name.endswith("/") else None
        return {f"{self.name}{rank}" for rank in failures} if failures else None

    @property
    def why(self) -> str:
        """What is known about the end of its workers, in a line."""
        if self.error is None:
            return ""
        failures = getattr(self.error, "worker_failures", None)
        lines = str(next(iter(failures.values())) if failures else self.error).strip().splitlines()
        told = [line.strip() for line in lines if line.strip()]
        return next((line for line in told if "exit detail" in line), told[-1] if told else repr(self.error))

    @property
    def unreturned(self) -> bool:
        """Whether Ray may keep what it had reserved: the workers of a fit never began, or its controller died."""
        return type(self.error).__name__ in ("ControllerError", "ActorDiedError")

    def overdue(self) -> bool:
        """Whether :data:`PATIENCE` seconds have passed since the first call, which comes when the node is gone."""
        self.left = self.left or time.monotonic()
        return time.monotonic() - self.left > PATIENCE

    def _guarded(self, run: Callable[[], Any]) -> None:
        try:
            run()
        except BaseException as error:
            self.error = error


@dataclass(frozen=True)
class Launcher:
    """Starts what the scheduler reserves slots for.

    Args:
        ray: the connected module.
        queue: the handle of the driver's :class:`StageQueue` actor.
        context: what workers need to know of the run.
        share: what one worker holds.
        scratch: a folder for Ray's files.
        ending: whether the run is at its end.

    Attributes:
        inboxes: key of a search -> where its thread waits for news about its trials.
    """

    ray: Any
    queue: Any
    context: Context
    share: Share
    scratch: str
    ending: Callable[[], bool]
    inboxes: dict[str, Inbox] = field(default_factory=dict)

    def tell(self, event: Event) -> bool:
        """Pass news about a trial on to the thread of its search; returns whether it was such news."""
        key = search_of(event.digest)
        if event.kind != "wanted" and key == event.digest:
            return False
        self.inboxes[key].put(event)
        return True

    def close(self) -> None:
        """Let the threads of the searches end."""
        for inbox in self.inboxes.values():
            inbox.put(None)

    def launch(self, reservation: Reservation[StageTask], refused: set[str]) -> Launch:
        """Start it; ``refused`` names the nodes (by id) that get no work."""
        run = getattr(self, f"_{reservation.kind}")(reservation, labels_of(reservation.node, refused))
        return Launch(reservation.name, run, reservation.node)

    def _group(self, reservation: Reservation[StageTask], labels: dict[str, str] | None) -> Callable[[], None]:
        config = {"queue": self.queue, "group": reservation.name, "context": self.context}
        return self._fit(reservation, labels, group_loop, config, None)

    def _run(self, reservation: Reservation[StageTask], labels: dict[str, str] | None) -> Callable[[], None]:
        assert reservation.task is not None
        stage = reservation.task.stage
        config = {"queue": self.queue, "worker": reservation.name, "context": self.context, "stage": stage}
        return self._fit(reservation, labels, run_loop, config, "nccl" if self.share.gpus >= 1 else "gloo")

    def _fit(
        self,
        reservation: Reservation[StageTask],
        labels: dict[str, str] | None,
        loop: Callable[..., Any],
        config: dict[str, Any],
        backend: str | None,
    ) -> Callable[[], None]:
        return partial(
            _fit, loop, config, name=reservation.name, size=reservation.slots, share=self.share, scratch=self.scratch,
            backend=backend, labels=labels,
        )  # fmt: skip

    def _task(self, reservation: Reservation[StageTask], labels: dict[str, str] | None) -> Callable[[], None]:
        assert reservation.node is not None
        arguments = (self.queue, f"{reservation.name}0", self.context)
        return partial(_pull, arguments, share=self.share, node=reservation.node)

    def _search(self, reservation: Reservation[StageTask], labels: dict[str, str] | None) -> Callable[[], None]:
        assert reservation.task is not None
        inbox = self.inboxes[reservation.task.key] = SimpleQueue()
        return partial(search_loop, self.queue, reservation.name, reservation.task, self.context, self.ending, inbox)


def _fit(
    loop: Callable[..., Any],
    config: dict[str, Any],
    *,
    name: str,
    size: int,
    share: Share,
    scratch: str,
    backend: str | None,
    labels: dict[str, str] | None,
) -> None:
    """A Ray Train fit of ``size`` workers, on nodes with these labels; returns when all have left.

    Ray does not try it again: the scheduler may start the next one with another size or on another node.

    Args:
        backend: of the workers' process group; None: each works by itself, so there is none. (The first worker of a
            process group listens on all addresses of its machine.)
    """
    from ray.train import BackendConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from fusiondistill_runner.driving.trainer import ClusterTrainer, LocalTrainer

    (ClusterTrainer if cluster_address() else LocalTrainer)(
        loop,
        train_loop_config=config,
        backend_config=TorchConfig(backend=backend) if backend else BackendConfig(),
        scaling_config=ScalingConfig(
            num_workers=size,
            use_gpu=share.gpus > 0,
            resources_per_worker=share.resources,
            label_selector=labels,
        ),
        run_config=RunConfig(
            name=name.replace("/", "_"),
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=FAILED_STARTS),
        ),
    ).fit()


def _pull(arguments: tuple[Any, ...], *, share: Share, node: str) -> None:
    """A plain Ray task on a node; returns when it has ended."""
    import ray

    remote = ray.remote(task_loop).options(
        num_cpus=share.cpus, num_gpus=share.gpus or None, max_retries=0, scheduling_strategy=on_node(node)
    )
    ray.get(remote.remote(*arguments))


def give_back(ray: Any) -> int:
    """Remove every placement group of this job, and return how many; the caller sees to it that none is in use.

    A fit whose workers never began leaves its placement group behind, for example where the workers' process group
    cannot be set up. The next fit would wait for its slots.
    """
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    table = placement_group_table().items()
    ours = [identity for identity, entry in table if identity.endswith(job) and entry["state"] != "REMOVED"]
    for identity in ours:  # an id ends with its job's
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(identity))))
    return len(ours)
