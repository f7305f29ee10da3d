"""The candidates of a search: how many, which, and that Optuna and the list go on where they were."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from fusiondistill.config import Dimension, SearchConfig
from fusiondistill.config_file import parse
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.search_space import candidate_count, candidates, draw, signature, without_effect
from fusiondistill_runner.planning.specs import SearchSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.searching.journal import Candidate
from fusiondistill_runner.searching.searchers import Optuna, searcher_for


def search(trials: int, **space: Any) -> SearchConfig:
    dimensions = {name.replace("_", ".", 1): Dimension.model_validate(d) for name, d in space.items()}
    return SearchConfig(trials=trials, space=dimensions)


def stage(text: str) -> Stage:
    """The search stage of an experiment with this ``search:``."""
    stages = build(parse(f"experiment: x\nsearch: {text}\n"), "f", lambda _: range(3)).stages
    (found,) = (one for one in stages if one.kind == "search")
    return found


FIRST = {"loss.kd": 0.0, "loss.ce": 0.1}


def test_each_form_gives_what_it_says_and_covers_it() -> None:
    many = range(2000)
    uniform = [draw(Dimension(uniform=(2.0, 4.0)), f"{i}") for i in many]
    assert 2 <= min(uniform) < 2.02 and 3.98 < max(uniform) <= 4 and abs(sum(uniform) / 2000 - 3) < 0.05
    log = [draw(Dimension(loguniform=(1e-4, 1.0)), f"{i}") for i in many]
    assert 1e-4 <= min(log) < max(log) <= 1 and abs(sum(map(math.log10, log)) / 2000 + 2) < 0.1
    whole = Counter(draw(Dimension(integers=(3, 5)), f"{i}") for i in many)
    assert set(whole) == {3, 4, 5} and min(whole.values()) > 550
    chosen = Counter(str(draw(Dimension(choice=("a", None, [1])), f"{i}")) for i in many)
    assert set(chosen) == {"a", "None", "[1]"} and min(chosen.values()) > 550


def test_the_recipe_comes_first_then_trials_draws_that_go_on_when_more_are_wanted() -> None:
    few, more = (search(n, loss_kd={"uniform": [0, 1]}, loss_ce={"loguniform": [0.1, 1]}) for n in (5, 9))
    drawn = list(candidates(few, FIRST, 0))
    assert drawn[0] == FIRST and len(drawn) == candidate_count(few) == 5
    assert list(candidates(more, FIRST, 0))[:5] == drawn
    assert list(candidates(few, FIRST, 1))[1:] != drawn[1:]
    assert list(drawn[1]) == ["loss.kd", "loss.ce"]


def test_grids_are_crossed_and_the_rest_is_drawn_at_each_point() -> None:
    grids = {"loss_kd": {"grid": [0.5, 1, 2]}, "loss_ce": {"grid": [0.2, 0.3]}}
    both = search(7, **grids)
    points = [tuple(one.values()) for one in candidates(both, FIRST, 0)]
    assert points == [(0.0, 0.1), *itertools.product([0.5, 1, 2], [0.2, 0.3])] and len(points) == candidate_count(both)
    mixed = search(4, **grids, **{"loss_kd.temperature": {"uniform": [1, 8]}})
    drawn = list(candidates(mixed, {**FIRST, "loss.kd.temperature": 4.0}, 0))
    assert len(drawn) == candidate_count(mixed) == 1 + 4 * 6
    assert set(Counter((d["loss.kd"], d["loss.ce"]) for d in drawn[1:]).values()) == {4}
    assert len({d["loss.kd.temperature"] for d in drawn}) == 25


def test_nothing_is_tried_twice() -> None:
    held = search(3, loss_kd={"grid": [0, 1]})
    assert [one["loss.kd"] for one in candidates(held, {"loss.kd": 0.0}, 0)] == [0.0, 1]
    small = search(100, loss_kd={"choice": [0, 1, 2]}, batch_size={"integers": [8, 9]})
    found = list(candidates(small, {"loss.kd": 0.0, "batch.size": 128}, 0))
    assert len(found) == len({signature(one) for one in found}) == candidate_count(small) == 7
    assert candidate_count(search(2, loss_kd={"grid": [1, 2]}, loss_ce={"choice": [1]})) == 3


def test_a_grid_of_millions_is_counted_and_begun_at_once_without_ray_or_torch() -> None:
    huge = search(1000, **{f"a_{n}": {"grid": list(range(100))} for n in range(4)}, b_x={"uniform": [0, 1]})
    began = time.process_time()
    assert candidate_count(huge) == 1 + 1000 * 100**4
    assert time.process_time() - began < 5  # one by one they would take hours
    module, heavy = "fusiondistill_runner.planning.search_space", {"torch", "ray", "optuna"}
    code = f"import {module}, sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def judged(number: int, values: dict[str, Any], score: float | None, outcome: str = "done") -> Candidate:
    rows = {} if score is None else {1: {"epoch": 1, "validation": score, "seconds": 1.0}}
    return Candidate(number, values, rows=rows, outcome=outcome)


def test_the_list_goes_on_after_what_is_there() -> None:
    one = stage("{trials: 6, space: {loss.kd: {uniform: [0, 1]}, loss.ce: {choice: [0.1, 0.2]}}}")
    whole = searcher_for(one, [])
    values = [whole.ask() for _ in range(6)]
    assert whole.ask() is None and values[0] == {"loss.kd": 0.0, "loss.ce": 0.1}
    again = searcher_for(one, [judged(n, v, 0.5) for n, v in enumerate(values[:4]) if v])
    assert [again.ask() for _ in range(3)] == [*values[4:], None]


OPTUNA = """{trials: 40, searcher: optuna, space: {
  loss.kd: {uniform: [0, 1]}, optimizer.lr: {loguniform: [1.0e-4, 0.1]},
  batch_size: {integers: [2, 64]}, schedule.milestones: {choice: [[0.3, 0.6], [0.5]]}}}"""


def accuracy(values: dict[str, Any]) -> float:
    """Best at kd 0.7, lr 0.01 and one milestone."""
    lost = (values["loss.kd"] - 0.7) ** 2 + (math.log10(values["optimizer.lr"]) + 2) ** 2 / 4
    return 0.9 - 0.2 * lost - 0.1 * (len(values["schedule.milestones"]) == 2)


def run(source: Any, count: int, past: list[Candidate]) -> list[Candidate]:
    for number in range(len(past), count):
        values = source.ask()
        candidate = judged(number, values, accuracy(values), ("done", "done", "stopped")[number % 3])
        source.tell(candidate)
        past.append(candidate)
    return past


def test_optuna_learns_starts_with_the_recipe_and_gives_values_of_the_space() -> None:
    one = stage(OPTUNA)
    source = searcher_for(one, [])
    assert isinstance(source, Optuna)
    found = run(source, 40, [])
    assert source.ask() is None
    assert found[0].values == {
        "loss.kd": 0.0, "optimizer.lr": 1e-3, "batch_size": 128, "schedule.milestones": [0.3, 0.7, 0.9],
    }  # fmt: skip
    for candidate in found[1:]:
        assert 0 <= candidate.values["loss.kd"] <= 1 and 2 <= candidate.values["batch_size"] <= 64
        assert candidate.values["schedule.milestones"] in ([0.3, 0.6], [0.5])
    early, late = (sum(accuracy(c.values) for c in found[a:b]) / (b - a) for a, b in ((1, 11), (30, 40)))
    assert late > early + 0.05
    assert run(searcher_for(one, []), 12, [])[11].values == found[11].values  # seeded


def test_optuna_goes_on_with_what_it_had_learned_and_never_repeats_itself() -> None:
    one = stage(OPTUNA)
    past = run(searcher_for(one, []), 25, [])
    again = searcher_for(one, list(past))
    assert isinstance(again, Optuna)
    assert len(again.study.trials) == 24  # not the recipe as it stands, whose batch size is outside the space
    values = [again.ask() for _ in range(15)]
    assert again.ask() is None
    assert sum(accuracy(v) for v in values if v) / 15 > sum(accuracy(c.values) for c in past[1:11]) / 10 + 0.05
    texts = [signature(v) for v in [*(c.values for c in past), *filter(None, values)]]
    assert len(set(texts)) == 40
    failed = judged(25, dict(values[0] or {}), None, "failed")
    again.tell(failed)
    small = searcher_for(stage("{trials: 9, searcher: optuna, space: {pairing: {choice: [same, independent]}}}"), [])
    assert [small.ask(), small.ask(), small.ask()] == [{"pairing": "independent"}, {"pairing": "same"}, None]


def test_the_same_address_gives_the_same_value_everywhere() -> None:
    found = [round(draw(Dimension(uniform=(0.0, 1.0)), f"{seed}/0/0/loss.kd"), 6) for seed in (0, 1)]
    assert found == [0.855732, 0.134244]


def all_of(text: str) -> list[dict[str, Any]]:
    """All that a searcher proposes when nothing is told to it."""
    found = iter(searcher_for(stage(text), []).ask, None)
    return [values for values in found if values is not None]


def test_what_differs_in_nothing_that_has_an_effect_is_tried_once() -> None:
    temperatures = "loss.kd.temperature: {grid: [1, 2, 8]}"
    assert all_of(f"{{space: {{{temperatures}}}}}") == [{"loss.kd.temperature": 4.0}], "the recipe has no kd"
    both = all_of(f"{{space: {{loss.kd: {{grid: [0, 1]}}, {temperatures}}}}}")
    assert [tuple(one.values()) for one in both] == [(0.0, 4.0), (1, 1), (1, 2), (1, 8)]
    views = all_of("{space: {loss.feature: {grid: [0, 1]}, teacher_view: {grid: [clean, degraded]}}}")
    assert [tuple(one.values()) for one in views] == [(1.0, "clean"), (0, "clean"), (1, "degraded")]
    momentum = all_of("{space: {optimizer.name: {grid: [sgd, adamw]}, optimizer.momentum: {grid: [0.5, 0.8]}}}")
    assert [tuple(one.values()) for one in momentum] == [("radam", 0.9), ("sgd", 0.5), ("sgd", 0.8), ("adamw", 0.5)]
    steps = "schedule.factor: {grid: [0.1, 0.5]}, schedule.milestones: {grid: [[0.5], [0.6]]}"
    names = [
        one["schedule.name"] for one in all_of(f"{{space: {{schedule.name: {{grid: [steps, cosine]}}, {steps}}}}}")
    ]
    assert Counter(names) == {"steps": 5, "cosine": 1}
    few = "{trials: 20, searcher: %s, space: {loss.kd: {choice: [0, 1]}, loss.kd.temperature: {choice: [1, 2, 4]}}}"
    for searcher in ("random", "optuna"):
        found = all_of(few % searcher)
        assert found[0] == {"loss.kd": 0.0, "loss.kd.temperature": 4.0} and len(found) == 4
        searched = stage(few % searcher).spec
        assert isinstance(searched, SearchSpec) and len(found) <= candidate_count(searched)


def test_settings_that_a_merging_method_lacks_change_nothing() -> None:
    found = all_of("{trials: 30, space: {start.merge: {choice: [average, ties]}, start.density: {choice: [0.3, 0.6]}}}")
    assert sorted((one["start.merge"], one["start.density"]) for one in found if one["start.merge"] == "ties") == [
        ("ties", 0.3), ("ties", 0.6),
    ]  # fmt: skip
    assert [one["start.merge"] for one in found].count("average") == 1


@pytest.mark.parametrize(("optimizer", "counts"), [("sgd", True), ("muon", True), ("radam", False), ("adamw", False)])
def test_momentum_counts_where_the_optimiser_has_one(optimizer: str, counts: bool) -> None:
    known = {"optimizer.name": optimizer, "optimizer.momentum": 0.9, "optimizer.nesterov": True}
    assert known.keys() - without_effect(known) == (known.keys() if counts else {"optimizer.name"})
