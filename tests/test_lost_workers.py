"""Workers that fail or die, without a Ray: what the queue is told of it, and what becomes of their stages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
import torch

from fusiondistill.config_file import parse
from fusiondistill_runner.driving import workers
from fusiondistill_runner.driving.dispatcher import Counts
from fusiondistill_runner.driving.launches import Launch
from fusiondistill_runner.driving.queue import StageQueue
from fusiondistill_runner.driving.scheduler import Scheduler
from fusiondistill_runner.driving.tasks import StageTask, tasks_of
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.searching import search
from fusiondistill_runner.working import execute as stages
from fusiondistill_runner.working.context import Context

FOUR = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}
SEARCHING = "experiment: x\nsearch: {space: {loss.kd: {uniform: [0, 1]}}}\n"
STAGES = build(parse(SEARCHING), "f", FOUR.__getitem__).stages
BASE, SEARCH = STAGES[0], next(stage for stage in STAGES if stage.kind == "search")

PEER = """
import os, sys
from torch import distributed, ones
distributed.init_process_group("gloo", init_method=sys.argv[1], rank=1, world_size=2)
distributed.all_reduce(ones(3))
os._exit(9)
"""


class Handle:
    """A queue as its actor handle."""

    def __init__(self, queue: StageQueue) -> None:
        self.queue = queue

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.queue, name))


@pytest.fixture
def gloo_error(tmp_path: Path) -> Exception:
    """What a worker of two gets to see when the other one dies."""
    meet = f"file://{tmp_path}/meet"
    with subprocess.Popen([sys.executable, "-c", PEER, meet]) as peer:
        torch.distributed.init_process_group("gloo", init_method=meet, rank=0, world_size=2)
        torch.distributed.all_reduce(torch.ones(3))
        peer.wait()
    try:
        with pytest.raises(RuntimeError) as raised:
            torch.distributed.all_reduce(torch.ones(3))
    finally:
        torch.distributed.destroy_process_group()
    return raised.value


def kinds(queue: StageQueue) -> list[str]:
    return [event.kind for event in queue.poll()[0]]


def run(queue: StageQueue, problem: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 of a data-parallel stage meets with a problem."""

    def execute(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(ray, "get", lambda answer: answer)
    ranks = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    monkeypatch.setattr(ray.train, "get_context", lambda: ranks)
    monkeypatch.setattr(stages, "execute", execute)
    monkeypatch.setattr(workers, "_train_device", lambda: torch.device("cpu"))  # it would ask a Ray, and start one
    config = {"queue": Handle(queue), "worker": "run1/base", "context": Context(str(folder)), "stage": BASE}
    with pytest.raises(type(problem)):
        workers.run_loop(config)


def test_who_only_lost_its_peer_does_not_give_the_stage_up(
    gloo_error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = StageQueue()
    queue.assign("run1/base", StageTask(BASE, 1.0))
    run(queue, gloo_error, tmp_path, monkeypatch)
    assert queue.holds("run1/base", BASE.digest) and kinds(queue) == ["started"]
    assert not list(tmp_path.rglob("error.txt"))
    queue.lose("run1/base")  # the driver, once the fit has ended
    assert kinds(queue) == ["lost"]


@pytest.mark.parametrize(("problem", "end"), [(OSError("NFS is gone"), "lost"), (ValueError("a mistake"), "failed")])
def test_who_fails_by_itself_names_the_cause(
    problem: Exception, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = StageQueue()
    queue.assign("run1/base", StageTask(BASE, 1.0))
    run(queue, problem, tmp_path, monkeypatch)
    assert kinds(queue) == ["started", end]
    (noted,) = tmp_path.rglob("error.txt")
    assert str(problem) in noted.read_text()


def _raising(error: BaseException) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


def test_a_data_parallel_stage_that_always_loses_a_worker_is_given_up() -> None:
    queue = StageQueue(attempts=3)
    for number in (1, 2, 3):
        name = f"run{number}/{BASE.directory}"
        queue.assign(name, StageTask(BASE, 1.0))
        launch = Launch(name, _raising(ray.train.WorkerGroupError("", {1: RuntimeError("killed")})))
        launch.thread.join()
        queue.lose(launch.name, launch.why, launch.blamed)
    news = queue.poll()[0]
    assert [event.kind for event in news] == ["started", "lost"] * 2 + ["started", "failed"]
    assert "(attempt 3): killed" in news[-1].facts["error"]


def test_a_group_that_waits_for_room_is_told_of_once() -> None:
    rules: Scheduler[StageTask] = Scheduler(tasks_of(STAGES), (), group_size=1, most=None)
    one, two = rules.start({"n": 2}, Counts(2, 0, 0), 0.0)
    assert not rules.is_late(80)
    rules.begun(f"{one.name}0")
    rules.begun(f"{two.name}0")
    assert not rules.is_late(100)  # they work
    (late,) = rules.start({"n": 3}, Counts(1, 0, 0), 100.0)
    assert (late.kind, late.slots, late.node) == ("group", 1, "n")
    assert [rules.is_late(now) for now in (180, 191, 192)] == [False, True, False]


def test_of_a_group_those_are_blamed_that_died() -> None:
    launch = Launch("group1/", _raising(ray.train.WorkerGroupError("", {1: RuntimeError("killed")})))
    launch.thread.join()
    assert launch.blamed == {"group1/1"}


def search_that_raises(
    problem: Exception, ending: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[StageQueue, Callable[[], None]]:
    """A search of an earlier run that failed: the queue that knows it, and what carries it out in the driver."""

    def fails(*_: Any, **__: Any) -> None:
        assert not list(folder.rglob("error.txt"))
        raise problem

    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(search, "run", fails)
    queue, context = StageQueue(), Context(str(folder))
    stages.note_error(SEARCH, context, "of an earlier run")
    queue.assign("search/x", StageTask(SEARCH, 1.0))
    task = StageTask(SEARCH, 1.0)
    return queue, lambda: workers.search_loop(Handle(queue), "search/x", task, context, lambda: ending, SimpleQueue())


@pytest.mark.parametrize(
    ("problem", "ending"), [(ray.exceptions.RaySystemError("no Ray"), False), (ValueError("no Ray"), True)]
)
def test_a_search_whose_ray_is_gone_has_not_failed(
    problem: Exception, ending: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, carry_out = search_that_raises(problem, ending, tmp_path, monkeypatch)
    with pytest.raises(type(problem)):
        carry_out()
    assert queue.holds("search/x", SEARCH.digest) and not list(tmp_path.rglob("error.txt"))


def test_a_search_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, carry_out = search_that_raises(RuntimeError("no trial came to a result"), False, tmp_path, monkeypatch)
    carry_out()
    assert kinds(queue) == ["started", "failed"]
    (noted,) = tmp_path.rglob("error.txt")
    assert "no trial came to a result" in noted.read_text()
