"""The loops of the workers: bodies of a Ray Train worker, of a plain Ray task, and of a search in the driver."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fusiondistill.locations import DiskFull
from fusiondistill_runner.driving.tasks import StageTask, Trial
from fusiondistill_runner.nodes.devices import plain_device
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.searching.search import Inbox
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.errors import describe

__all__ = ["group_loop", "lost_a_peer", "may_pass", "run_loop", "search_loop", "task_loop"]


def task_loop(queue: Any, worker: str, context: Context) -> int:
    """A plain Ray task: a stage that trains nothing."""
    return work(queue, worker, context, plain_device(), trains=False)


def _train_device() -> Any:
    """The device of a Ray Train worker: it may see the GPUs of its neighbours, too."""
    import ray.train.torch

    device = plain_device()
    return ray.train.torch.get_device() if device.type == "cuda" else device


def group_loop(config: dict[str, Any]) -> int:
    """A worker of a Ray Train group, pulling stages of any kind."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    return work(config["queue"], f"{config['group']}{rank}", config["context"], _train_device(), trains=True)


def run_loop(config: dict[str, Any]) -> None:
    """A worker of one data-parallel stage: rank 0 reports its end, a worker that fails says why and ends the group.

    A worker that fails because another one is gone says nothing: the other one has said why, or it died, and the driver
    counts that.
    """
    import ray
    import ray.train

    from fusiondistill_runner.working.execute import execute, note_error

    ranks = ray.train.get_context()
    rank, queue, worker, stage = ranks.get_world_rank(), config["queue"], config["worker"], config["stage"]

    report = _reporter(queue, worker, stage.digest)
    if not ray.get(queue.holds.remote(worker, stage.digest)):
        return  # the stage has failed; Ray Train started the group again
    try:
        execute(
            stage,
            config["context"],
            _train_device(),
            report,
            rank=rank,
            world_size=ranks.get_world_size(),
            closing=lambda: ray.get(queue.closing.remote()),
        )
    except Exception as problem:
        if not lost_a_peer(problem):
            error = describe(problem)
            note_error(stage, config["context"], error)
            ray.get(queue.finish.remote(worker, stage.digest, error, may_pass(problem)))  # the first names the cause
        raise
    if rank == 0:
        ray.get(queue.finish.remote(worker, stage.digest, None, False))


def search_loop(
    queue: Any, worker: str, task: StageTask, context: Context, ending: Callable[[], bool], inbox: Inbox
) -> None:
    """A search, in a thread of the driver.

    Args:
        ending: whether the run is at its end, which is then the cause of an error.
        inbox: the news about the search's trials, which the driver passes on.

    Raises:
        Exception: Ray or the run has come to its end, not the search: the driver counts it as lost.
    """
    import ray

    from fusiondistill_runner.searching import search
    from fusiondistill_runner.working.execute import note_error

    stage, error = task.stage, None
    Store(context.store).forget_error(stage)
    try:
        search.run(
            stage,
            context,
            report=_reporter(queue, worker, stage.digest),
            expect=lambda left, judged: ray.get(queue.expect.remote(stage.digest, left, judged)),
            offer=lambda number, values: queue.offer.remote([Trial(stage, number, values, task.priority)]),
            judge=lambda trial, epoch, goes_on: queue.judge.remote(trial, epoch, goes_on),
            inbox=inbox,
        )
    except Exception as problem:
        if ending() or isinstance(problem, ray.exceptions.RayError):
            raise
        error = describe(problem)
        note_error(stage, context, error)
    ray.get(queue.finish.remote(worker, stage.digest, error, False))


def work(queue: Any, worker: str, context: Any, device: Any, trains: bool) -> int:
    """Take stages from the queue (a Ray actor handle) and do them until there is nothing left; returns how many."""
    import ray

    from fusiondistill_runner.working.execute import execute, note_error

    ray.get(queue.lose.remote(worker))  # the worker that had this name before is dead
    node = ray.get_runtime_context().get_node_id()
    context = replace(context, worker=f"{worker} on node {node[:8]}")
    done = 0
    while True:
        taken = ray.get(queue.take.remote(worker, trains))
        if taken == "leave":
            return done
        if taken == "wait":
            time.sleep(0.05)
            continue
        error, retry = None, False
        try:
            if isinstance(taken, Trial):
                _try(taken, queue, worker, context, device)
            else:
                execute(
                    taken,
                    context,
                    device,
                    _reporter(queue, worker, taken.digest),
                    closing=lambda: ray.get(queue.closing.remote()),
                )
            done += 1
        except Exception as problem:
            error, retry = describe(problem), may_pass(problem)
            if isinstance(taken, Stage):
                note_error(taken, context, error)
        key = taken.key if isinstance(taken, Trial) else taken.digest
        ray.get(queue.finish.remote(worker, key, error, retry))


def _reporter(queue: Any, worker: str, key: str) -> Callable[[dict[str, Any]], Any]:
    """Tells the queue how far a worker's task is; the worker does not wait for an answer."""
    return lambda facts: queue.report.remote(worker, key, facts)


class _Stopped(Exception):
    """The search stops a trial early, or has ended."""


def _try(trial: Trial, queue: Any, worker: str, context: Context, device: Any) -> None:
    """Train a candidate of a search, to its end or until the search stops it."""
    import ray

    from fusiondistill_runner.working.trial import train_candidate

    def report(facts: dict[str, Any]) -> None:
        ray.get(queue.report.remote(worker, trial.key, facts))
        while (goes_on := ray.get(queue.goes_on.remote(worker, trial.key, int(facts["epoch"])))) is None:
            time.sleep(0.02)
        if not goes_on:
            raise _Stopped

    with contextlib.suppress(_Stopped):
        train_candidate(
            trial.search, trial.values, context, device, report, closing=lambda: ray.get(queue.closing.remote())
        )


def may_pass(problem: Exception) -> bool:
    """Whether another try may succeed: the network or a disk failed, not the stage itself."""
    return isinstance(problem, OSError) and not isinstance(problem, DiskFull)


def lost_a_peer(problem: Exception) -> bool:
    """Whether a collective operation failed because another worker is gone; gloo raises a plain RuntimeError then."""
    from torch.distributed import DistError

    words = str(problem).lower()
    return isinstance(problem, DistError) or (isinstance(problem, RuntimeError) and "gloo" in words)
