"""The simulated schedule: worked out by hand, held against bounds, and against a run that took place."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from fusiondistill_runner.forecasting.paths import ORDERS, critical_path, longest_paths
from fusiondistill_runner.forecasting.simulation import (
    FIT_END,
    FIT_START,
    OFFER,
    SEARCH_END,
    TAKE,
    TASK_START,
    Job,
    Schedule,
    simulate,
)


def train(key: str, seconds: float, *needs: str, **more: float) -> Job:
    return Job(key, "train", seconds, needs, **more)  # type: ignore[arg-type]


def times(schedule: Schedule) -> dict[str, tuple[float, float]]:
    return {run.job.key: (run.start, run.end) for run in schedule.runs}


def at_most_at_once(schedule: Schedule) -> int:
    changes = sorted((t, n) for r in schedule.runs for t, n in ((r.start, r.slots), (r.end, -r.slots)))
    now, most = 0, 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def layered(count: int, seed: int, kinds: tuple[str, ...] = ("train", "evaluate", "fuse")) -> list[Job]:
    """A random graph of jobs that need up to three earlier ones."""
    rng = random.Random(seed)
    jobs: list[Job] = []
    for i in range(count):
        needs = rng.sample(range(max(0, i - 40), i), min(i, rng.randrange(4)))
        kind = rng.choice(kinds)
        trials = rng.randrange(1, 9) if kind == "search" else 1
        jobs.append(Job(str(i), kind, rng.uniform(1, 100), tuple(map(str, needs)), rng.random(), trials=trials))
    return jobs


def test_two_workers_by_hand() -> None:
    """Base first, then the experts by priority; what follows them is offered a moment after they end."""
    jobs = [
        train("base", 50, priority=9),
        train("a", 30, "base", priority=1),
        train("b", 20, "base", priority=5),
        train("c", 10, "base", priority=3),
    ]
    found = times(simulate(jobs, 2))
    after = FIT_START + TAKE + 50 + OFFER  # a second worker was not started for one job: it comes now
    assert found["base"] == pytest.approx((FIT_START + TAKE, FIT_START + TAKE + 50))
    assert found["b"] == pytest.approx((after + TAKE, after + TAKE + 20))
    assert found["c"] == pytest.approx((after + FIT_START + TAKE, after + FIT_START + TAKE + 10))
    assert found["a"][0] == pytest.approx(found["c"][1] + TAKE)  # 17 s, before b's 20


def test_one_worker_does_everything_in_turn() -> None:
    jobs = layered(50, 1, ("train",))
    schedule = simulate(jobs, 1)
    assert all(b.start - a.end <= OFFER + TAKE + 1e-6 for a, b in pairwise(schedule.runs))
    assert schedule.makespan == pytest.approx(FIT_START + sum(job.seconds for job in jobs) + 50 * TAKE, abs=50 * OFFER)
    assert schedule.utilisation > 0.98


def test_without_training_plain_tasks_do_it_and_leave_at_once() -> None:
    jobs = [Job(str(i), "evaluate", 10.0) for i in range(4)]
    schedule = simulate(jobs, 2)
    assert schedule.makespan == pytest.approx(TASK_START + 20 + 2 * TAKE)
    imported = [Job("base", "import", 0.0), Job("e", "evaluate", 10.0, needs=("base",))]
    assert times(simulate(imported, 2))["base"] == (0, 0)
    assert simulate(imported, 2).makespan == pytest.approx(TASK_START + TAKE + 10)


def trials(schedule: Schedule) -> list[tuple[float, float]]:
    return sorted((run.start, run.end) for run in schedule.runs if run.job.kind == "trial")


@pytest.mark.parametrize(("slots", "at_once"), [(1, 1), (3, 3), (6, 6), (20, 6)])
def test_a_search_takes_at_most_as_many_slots_as_it_has_trials(slots: int, at_once: int) -> None:
    schedule = simulate([Job("s", "search", 60.0, trials=6)], slots)
    found = times(schedule)["s"]
    assert at_most_at_once(schedule) == at_once and len(trials(schedule)) == 6
    assert found[1] - found[0] == pytest.approx(FIT_START + 60 / at_once + SEARCH_END, abs=6 * TAKE)
    assert schedule.device_seconds == pytest.approx(60)


def test_a_search_its_successor_and_others_share_the_slots_by_what_waits_for_them() -> None:
    """Both slots train trials while the search has the longest path; short jobs fill what its successor leaves."""
    jobs = [
        Job("search", "search", 40.0, priority=100, trials=4), train("winner", 60, "search", priority=60),
        *(Job(f"e{i}", "evaluate", 10.0, priority=10) for i in range(6)),
    ]  # fmt: skip
    schedule = simulate(jobs, 2, at_once=True)
    found = times(schedule)
    assert trials(schedule)[-1][1] == pytest.approx(FIT_START + 20, abs=0.1)
    assert found["winner"][0] == pytest.approx(FIT_START + 20 + SEARCH_END + OFFER, abs=0.1)
    first = min(found[f"e{i}"][0] for i in range(6))
    assert first == pytest.approx(FIT_START + 20, abs=0.1)  # on both slots, until the winner is known
    assert schedule.makespan == pytest.approx(found["winner"][0] + 60) and schedule.utilisation > 0.8
    later = [replace(job, priority=0.0 if job.kind == "search" else job.priority) for job in jobs]
    assert simulate(later, 2, at_once=True).makespan > schedule.makespan + 15


def test_the_workers_that_a_machine_has_start_together() -> None:
    jobs = [train("base", 50), train("a", 30, "base"), train("b", 20, "base")]
    one_by_one, together = simulate(jobs, 2), simulate(jobs, 2, at_once=True)
    assert together.makespan == pytest.approx(FIT_START + 80, abs=0.5)
    assert one_by_one.makespan >= together.makespan and at_most_at_once(together) == 2


def test_a_data_parallel_stage_has_a_fit_of_its_own() -> None:
    jobs = [train("base", 50, workers=4), train("a", 30, "base", workers=4), train("b", 30, "base", workers=4)]
    narrow, wide = simulate(jobs, 4), simulate(jobs, 8)
    assert narrow.makespan == pytest.approx(3 * FIT_START + 2 * FIT_END + 110, abs=1)
    assert wide.makespan == pytest.approx(2 * FIT_START + OFFER + 80, abs=FIT_END)
    assert narrow.device_seconds == 440 and {run.slots for run in narrow.runs} == {4}
    with pytest.raises(ValueError, match="workers_per_run is 4, but only 3 workers fit"):
        simulate(jobs, 3)


@pytest.mark.parametrize("slots", [1, 2, 7, 64])
@pytest.mark.parametrize("order", list(ORDERS))
def test_no_order_breaks_the_rules_or_the_bounds(slots: int, order: str) -> None:
    for seed, kinds in ((0, ("train", "evaluate", "fuse")), (1, ("train", "evaluate", "search")), (2, ("search",))):
        jobs = ORDERS[order](layered(300, seed, kinds))
        schedule = simulate(jobs, slots)
        found = times(schedule)
        own = [run for run in schedule.runs if run.job.kind != "trial"]
        assert sorted(run.job.key for run in own) == sorted(job.key for job in jobs)
        assert len(schedule.runs) - len(own) == sum(job.trials for job in jobs if job.kind == "search")
        assert all(found[need][1] <= found[job.key][0] for job in jobs for need in job.needs)
        assert at_most_at_once(schedule) <= slots
        work, path = sum(job.seconds for job in jobs), max(longest_paths(jobs).values())
        assert schedule.makespan >= max(work / slots, path)
        if "search" not in kinds:  # Graham's bound, beside a fit and a moment for each stage
            assert schedule.makespan <= work / slots + path + FIT_START * 2 + len(jobs) * (OFFER + TAKE)
        by_worker: dict[str, list[tuple[float, float]]] = {}
        for run in schedule.runs:
            by_worker.setdefault(run.worker, []).append((run.start, run.end))
        assert all(a[1] <= b[0] for runs in by_worker.values() for a, b in pairwise(sorted(runs)))


def test_the_critical_path_is_the_longest_chain() -> None:
    jobs = layered(60, 5, ("train", "search"))
    by_key = {job.key: job for job in jobs}

    def longest(job: Job) -> float:  # by walking every chain backwards
        return job.shortest + max((longest(by_key[need]) for need in job.needs), default=0.0)

    chain = critical_path(jobs)
    assert sum(job.shortest for job in chain) == pytest.approx(max(longest(job) for job in jobs))
    assert not chain[0].needs and all(a.key in b.needs for a, b in pairwise(chain))
    endless = simulate(ORDERS["longest path"](layered(60, 5, ("train",))), 60)
    path = critical_path(layered(60, 5, ("train",)))
    assert endless.makespan <= sum(j.shortest for j in path) + len(path) * (OFFER + TAKE + FIT_START)


def test_ten_thousand_stages_take_seconds() -> None:
    jobs = layered(10_000, 3, ("train", "evaluate") * 5 + ("search",))
    began = time.process_time()
    for slots in (4, 240):
        assert len(simulate(jobs, slots).runs) == sum(1 + job.trials * (job.kind == "search") for job in jobs)
    assert len(critical_path(jobs)) > 10 and time.process_time() - began < 5


def test_a_run_that_took_place_is_told_to_the_second() -> None:
    """Real starts and ends of 71 stages on two workers, with a search; only the overheads are assumed.

    The trials of a search are taken to be equally long, but ASHA stops some of them: hence the second.
    """
    stages = json.loads((Path(__file__).parent / "recorded_run.json").read_text())["stages"]
    jobs = [
        Job(name, kind, seconds, tuple(stages[i][0] for i in needs), priority, trials=trials)
        for name, kind, seconds, needs, priority, trials, _, _ in stages
    ]
    real = {row[0]: (row[-2], row[-1]) for row in stages}
    schedule = simulate(jobs, 2, at_once=True)
    found = times(schedule)
    first = min(start for start, _ in found.values())
    searched = real["search-fusiondistill"][0]
    trained = [job for job in jobs if job.kind in ("train", "fuse", "search")]
    assert len(trained) == 12
    for job in trained:
        close = 0.5 if real[job.key][0] <= searched else 1.2
        assert found[job.key][0] - first == pytest.approx(real[job.key][0], abs=close), job.key
    assert schedule.makespan - first == pytest.approx(max(end for _, end in real.values()), rel=0.03)


def test_longest_path_first_is_better_where_it_matters() -> None:
    """A long chain beside many short jobs: an order that leaves the chain to the end takes longer."""
    chain = [train(f"c{i}", 100, *([f"c{i - 1}"] if i else [])) for i in range(8)]
    short = [train(f"s{i}", 10) for i in range(320)]
    jobs = [replace(job, priority=0.0) for job in (*short, *chain)]
    spans = {name: simulate(order(jobs), 5).makespan for name, order in ORDERS.items()}
    assert spans["longest path"] < 840
    assert min(spans["first come"], spans["shortest first"]) > 1.6 * spans["longest path"]
