"""What holds slots of the cluster while a run goes on: threads, each around a Ray Train fit, a Ray task or a search."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fusiondistill_runner.nodes.cluster import Share, on_node

__all__ = ["FIT_FAILURES", "Hand", "fit", "give_back", "pull"]

FIT_FAILURES = 3
"""A fit that fails so often without any stage getting on ends the run."""
PATIENCE = 20.0
"""Seconds after which what was on a lost node is given up, should Ray still wait for it."""


class Hand:
    """Something that holds slots: a worker group, a plain worker, a search, a data-parallel fit."""

    def __init__(self, name: str, slots: int, run: Callable[[], Any], node: str | None = None) -> None:
        self.name, self.slots, self.node = name, slots, node
        self.error: BaseException | None = None
        self.left: float | None = None
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self._guarded, args=(run,), name=name, daemon=True)
        self.thread.start()

    @property
    def blamed(self) -> set[str] | None:
        """The workers that died by themselves, not because another of their group did; None: all, or nothing says so.

        The workers of a data-parallel run are one to the queue, which knows them by the name of the run.
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
    def unstarted(self) -> bool:
        """Whether it was a fit whose workers did not come to work: Ray may keep what it had reserved for them."""
        return type(self.error).__name__ == "ControllerError"

    def overdue(self) -> bool:
        """Whether it had time enough to notice that its node is gone."""
        self.left = self.left or time.monotonic()
        return time.monotonic() - self.left > PATIENCE

    def _guarded(self, run: Callable[[], Any]) -> None:
        try:
            run()
        except BaseException as error:
            self.error = error


def fit(
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

    Ray does not try it again: the next one may need another size or place.

    Args:
        backend: of the workers' process group; None: each works by itself, so there is none. (Its first worker would
            listen on all addresses of its machine, for whoever comes.)
    """
    from ray.train import BackendConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    DataParallelTrainer(
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
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=FIT_FAILURES),
        ),
    ).fit()


def pull(loop: Callable[..., Any], arguments: tuple[Any, ...], *, share: Share, node: str) -> None:
    """A plain Ray task on a node; returns when it has ended."""
    import ray

    remote = ray.remote(loop).options(
        num_cpus=share.cpus, num_gpus=share.gpus or None, max_retries=0, scheduling_strategy=on_node(node)
    )
    ray.get(remote.remote(*arguments))


def give_back(ray: Any) -> int:
    """Remove every reservation of this job, return how many; nothing that needs one may be running.

    A fit whose workers do not come to work leaves its own behind (a process group that cannot be set up, say), and
    whoever is started next would wait for it.
    """
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    table = placement_group_table().items()
    ours = [identity for identity, entry in table if identity.endswith(job) and entry["state"] != "REMOVED"]
    for identity in ours:  # an id ends with its job's
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(identity))))
    return len(ours)
