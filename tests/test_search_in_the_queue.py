"""A search that proposes its trials through the queue: the real search and queue; the workers' metrics are made up."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fusiondistill.config_file import parse
from fusiondistill_runner.driving.queue import StageQueue
from fusiondistill_runner.driving.tasks import StageTask, Trial
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.searching import search
from fusiondistill_runner.searching.asha import Asha, rungs
from fusiondistill_runner.working.context import Context

EPOCHS = 9
CONFIG = f"""
experiment: x
methods: [fusiondistill]
search: {{trials: 7, epochs: {EPOCHS}, space: {{loss.kd: {{uniform: [0, 1]}}}}}}
"""
SEARCH = next(s for s in build(parse(CONFIG), "f", lambda _: range(3)).stages if s.kind == "search")


class Run:
    """A search in a thread, as the driver has it, over a queue in this process."""

    def __init__(self, folder: Path) -> None:
        self.queue, self.inbox, self.lock = StageQueue(), search.Inbox(), threading.Lock()
        self.queue.assign("search/x", StageTask(SEARCH, 5.0))
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._search, args=(Context(str(folder)),), daemon=True)
        self.thread.start()

    def _search(self, context: Context) -> None:
        try:
            search.run(
                SEARCH,
                context,
                report=lambda facts: self.call("report", "search/x", SEARCH.digest, facts),
                expect=lambda left, judged: self.call("expect", SEARCH.digest, left, judged),
                offer=lambda number, values: self.call("offer", [Trial(SEARCH, number, values, 5.0)]),
                judge=lambda *verdict: self.call("judge", *verdict),
                inbox=self.inbox,
            )
        except Exception as error:
            self.error = error

    def call(self, name: str, *arguments: Any) -> Any:
        with self.lock:
            return getattr(self.queue, name)(*arguments)

    def until(self, answer: Callable[[], Any]) -> Any:
        """Pass the news on until there is an answer, or the search has ended."""
        while (found := answer()) is None and self.thread.is_alive():
            for event in self.call("news"):
                if event.kind == "wanted" or "#" in event.digest:
                    self.inbox.put(event)
            self.thread.join(0.001)
        return found

    def taken(self, worker: str) -> Trial | None:
        """What a worker gets; None: the search has ended."""

        def take() -> Trial | None:
            found = self.call("take", worker, True)
            return found if isinstance(found, Trial) else None

        return self.until(take)  # type: ignore[no-any-return]

    def trained(self, worker: str, trial: Trial, score: Callable[[int], float]) -> int:
        """Train a trial until it is stopped, or to its end; returns the epochs."""
        for epoch in range(1, EPOCHS + 1):
            facts = {"epoch": epoch, "validation": score(epoch), "seconds": 1.0, "kept": True}
            self.call("report", worker, trial.key, facts)
            if not self.until(lambda: self.call("goes_on", worker, trial.key, epoch)):  # noqa: B023
                break
        self.call("finish", worker, trial.key)
        return epoch


def told(folder: Path) -> list[dict[str, Any]]:
    (found,) = folder.glob("search-*/trials.*.parquet")
    return pq.read_table(found).to_pylist()  # type: ignore[no-any-return]


def test_every_candidate_is_tried_once_and_weak_ones_are_stopped_at_a_rung(tmp_path: Path) -> None:
    run, epochs = Run(tmp_path), dict[int, int]()
    while (trial := run.taken("g/0")) is not None:
        quality = trial.values["loss.kd"]
        epochs[trial.number] = run.trained("g/0", trial, lambda epoch: quality * epoch / EPOCHS)  # noqa: B023
    assert run.error is None and sorted(epochs) == list(range(7))
    rows, reached = told(tmp_path), rungs(EPOCHS)
    assert [row["epochs"] for row in rows] == [epochs[row["trial"]] for row in rows]
    assert {row["epochs"] for row in rows if row["stopped"]} <= reached and any(row["stopped"] for row in rows)
    best: list[float] = []
    for row in rows:  # one at a time, so at its rung each is compared with all before it
        before, value = sorted(best), row["loss.kd"]
        if before and value < np.percentile(before, 200 / 3):
            assert row["stopped"]
        best.append(value)
    assert max(row["loss.kd"] for row in rows if not row["stopped"]) == max(row["loss.kd"] for row in rows)


def test_failed_trials_and_lost_workers_do_not_end_a_search(tmp_path: Path) -> None:
    run = Run(tmp_path)
    first, second = run.taken("g/0"), run.taken("h/0")
    assert first is not None and second is not None and first.number != second.number
    run.call("finish", "g/0", first.key, "ValueError\nno good", False)
    run.call("lose", "h/")
    again = run.taken("i/0")
    assert again == second
    while again is not None:
        run.trained("i/0", again, lambda epoch: 0.5)
        again = run.taken("i/0")
    rows = told(tmp_path)
    assert run.error is None and [row["trial"] for row in rows] == list(range(7))
    assert [row["error"] for row in rows if row["error"]] == ["no good"] and rows[first.number]["error"] == "no good"


def test_a_search_ends_with_its_run_and_goes_on_in_the_next(tmp_path: Path) -> None:
    run = Run(tmp_path)
    done, cut = run.taken("g/0"), run.taken("h/0")
    assert done is not None and cut is not None
    run.trained("g/0", done, lambda epoch: 0.9)
    run.until(lambda: None if run.queue.events else True)
    run.inbox.put(None)
    run.thread.join(10)
    assert "at its end" in str(run.error) and not list(tmp_path.glob("search-*/trials.*"))
    run = Run(tmp_path)
    first = run.taken("g/0")
    assert first is not None and first == cut  # the one under way first, the ended one no more
    numbers = [first.number]
    run.trained("g/0", first, lambda epoch: 0.8)
    while (trial := run.taken("g/0")) is not None:
        numbers.append(trial.number)
        run.trained("g/0", trial, lambda epoch: 0.1)
    assert sorted([*numbers, done.number]) == list(range(7)) and len(told(tmp_path)) == 7
    assert told(tmp_path)[done.number]["validation"] == 0.9


@pytest.mark.parametrize("epochs", [2, 4, 9, 30])
def test_asha_stops_below_the_best_third_of_those_before_at_its_rungs_only(epochs: int) -> None:
    asha, draw, before = Asha(epochs), random.Random(epochs), dict[int, list[float]]()
    assert max(rungs(epochs)) < epochs and min(rungs(epochs)) == max(1, epochs // 4) and not rungs(1)
    for number in range(40):
        for epoch in range(1, epochs + 1):
            score, known = draw.random(), before.setdefault(epoch, [])
            expected = epoch not in rungs(epochs) or not known or score >= np.percentile(known, 200 / 3)
            known.append(score)
            assert asha.goes_on(number, epoch, score) == asha.goes_on(number, epoch, score) == expected
            if not expected:
                break
