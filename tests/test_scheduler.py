"""What is started next and where, as a plain object: no Ray, no clock."""

from __future__ import annotations

from fusiondistill_runner.driving.dispatcher import Counts
from fusiondistill_runner.driving.scheduler import FAILED_STARTS, Reservation, Scheduler
from fusiondistill_runner.forecasting.simulation import Job

NOTHING = Counts(0, 0, 0)


def scheduler(*jobs: Job, stored: tuple[str, ...] = (), group_size: int = 8, most: int | None = None) -> Scheduler[Job]:
    return Scheduler(jobs, stored, group_size=group_size, most=most)


def job(key: str, kind: str, *needs: str, workers: int = 1, trials: int = 1) -> Job:
    return Job(key, kind, 1.0, needs, 0.0, workers, trials)


def shapes(started: list[Reservation[Job]]) -> list[tuple[str, int, str | None]]:
    return [(one.kind, one.slots, one.node) for one in started]


def keys(jobs: list[Job]) -> list[str]:
    return [one.key for one in jobs]


def test_what_is_ready_is_offered_once_in_the_order_of_the_plan() -> None:
    rules = scheduler(
        job("base", "train"), job("b", "train", "base", "old"), job("a", "fuse", "base"), job("c", "train", "a", "b"),
        job("old", "train"), stored=("old",),
    )  # fmt: skip
    assert keys(rules.offer()) == ["base"] and rules.offer() == []
    rules.done("base")
    rules.done("base")  # told twice
    assert keys(rules.offer()) == ["b", "a"]
    rules.done("a")
    assert rules.offer() == []
    rules.done("b")
    assert keys(rules.offer()) == ["c"] and set(rules.missing) == {"c"}


def test_groups_fill_the_emptiest_nodes_first() -> None:
    rules = scheduler(group_size=4)
    nodes = {"n1": 2, "n2": 6, "n3": 6}
    assert shapes(rules.start(nodes, Counts(9, 0, 0), 0)) == [
        ("group", 4, "n2"),
        ("group", 2, "n2"),
        ("group", 3, "n3"),
    ]
    assert rules.start(nodes, Counts(9, 0, 0), 0) == []  # as many workers are on their way
    assert shapes(rules.start(nodes, Counts(9, 4, 1), 0)) == [("group", 3, "n3")]
    assert rules.free(nodes) == 2


def test_workers_on_their_way_and_idle_ones_count_for_what_is_ready() -> None:
    rules, nodes = scheduler(), {"n": 8}
    (first,) = rules.start(nodes, Counts(2, 0, 0), 0)
    rules.begun(f"{first.name}1")  # its other worker is idle then
    assert shapes(rules.start(nodes, Counts(1, 1, 1), 0)) == [("group", 1, "n")]
    assert rules.free(nodes) == 5


def test_without_training_plain_workers_come_one_by_one() -> None:
    rules = scheduler(most=3)
    assert shapes(rules.start({"n": 2, "m": 2}, Counts(0, 5, 0), 0)) == [
        ("task", 1, "m"),
        ("task", 1, "m"),
        ("task", 1, "n"),
    ]
    assert rules.free({"n": 2, "m": 2}) == 0  # at most three at once


def test_a_search_begins_at_once_and_holds_no_slots() -> None:
    rules = scheduler(job("s", "search", trials=50), job("t", "search", trials=2))
    assert rules.offer() == [] and not rules.idle
    nodes = {"n": 12}
    started = rules.start(nodes, Counts(20, 0, 0), 0)
    assert [(one.name, one.slots) for one in started[:2]] == [("search/s", 0), ("search/t", 0)]
    assert shapes(started[2:]) == [("group", 8, "n"), ("group", 4, "n")]
    rules.ended("search/s")
    assert rules.start(nodes, NOTHING, 0) == [] and not rules.idle
    rules.lost("s")
    assert shapes(rules.start(nodes, NOTHING, 0)) == [("search", 0, None)]
    rules.ended("search/s")
    rules.done("s")
    rules.ended("search/t")
    assert list(rules.missing) == ["t"] and rules.on_their_way == 12


def test_the_first_worker_brings_along_all_that_the_plan_needs() -> None:
    """Where no one else wants the slots: their start takes seconds."""
    jobs = [
        job("base", "train"), job("a", "train", "base"), job("s", "search", "base", trials=3),
        *(job(f"e{i}", "evaluate", "a") for i in range(20)),
    ]  # fmt: skip
    rules = Scheduler(jobs, (), group_size=8, most=None, at_once=True)
    assert keys(rules.offer()) == ["base"]
    assert shapes(rules.start({"n": 16}, Counts(1, 0, 0), 0)) == [("group", 4, "n")]
    assert rules.start({"n": 16}, Counts(1, 0, 0), 0) == []
    # What more is wanted later comes on top of them, and does not bring them along again.
    assert shapes(rules.start({"n": 16}, Counts(1, 6, 1), 0)) == [("group", 2, "n")]
    wide = Scheduler([job("x", "evaluate"), job("y", "evaluate"), job("z", "evaluate")], (), group_size=8, most=None,
                     at_once=True)  # fmt: skip
    wide.offer()
    assert shapes(wide.start({"n": 16}, Counts(0, 2, 0), 0)) == [("task", 1, "n")] * 2
    both = scheduler(job("s", "search", trials=2), job("x", "evaluate"))
    both.offer()  # a worker that trains does both
    assert shapes(both.start({"n": 16}, Counts(0, 1, 0), 0)) == [("search", 0, None), ("group", 3, "n")]


def test_a_data_parallel_training_waits_for_all_its_slots() -> None:
    rules = scheduler(job("wide", "train", workers=4), job("x", "train"))
    assert keys(rules.offer()) == ["x"]
    assert shapes(rules.start({"n": 3}, Counts(1, 0, 0), 0)) == [("group", 1, "n")]
    assert rules.start({"n": 4}, NOTHING, 0) == []
    (run,) = rules.start({"n": 3, "m": 2}, NOTHING, 0)
    assert (run.kind, run.slots, run.node, run.task) == ("run", 4, None, rules.missing["wide"])
    rules.ended(run.name, failed=True)
    rules.lost("wide")
    (again,) = rules.start({"n": 3, "m": 2}, NOTHING, 0)
    assert again.task == run.task and again.name != run.name
    assert not rules.given_up  # the queue counts its attempts


def test_workers_that_fail_again_and_again_end_the_run_unless_something_gets_done() -> None:
    rules = scheduler(job("a", "train"), job("b", "train"))
    rules.offer()
    for number in range(2 * FAILED_STARTS - 1):
        (group,) = rules.start({"n": 1}, Counts(1, 0, 0), 0)
        rules.ended(group.name, failed=True)
        if number == FAILED_STARTS - 2:
            rules.done("a")
        assert rules.given_up == (number == 2 * FAILED_STARTS - 2)
    assert rules.free({"n": 1}) == 1 and rules.on_their_way == 0


def test_slots_on_a_node_that_is_gone_are_not_missed_elsewhere() -> None:
    rules = scheduler()
    (lost,) = rules.start({"n": 2}, Counts(2, 0, 0), 0)
    assert rules.free({"m": 3}) == 1  # until its end is known
    rules.ended(lost.name)
    assert shapes(rules.start({"m": 3}, Counts(3, 0, 0), 0)) == [("group", 3, "m")]
