"""What a search makes of its trials; a whole search runs in test_run.py."""

from __future__ import annotations

from typing import Any

from experiments.plan import build
from experiments.search import _row, _summary, choose
from experiments.stage import SearchSpec
from fusiondistill.config_file import parse

CONFIG = """
experiment: x
fusiondistill: {epochs: 3}
search:
  trials: 4
  space: {loss.kd: {uniform: [0, 1]}, schedule.milestones: {choice: [[0.3, 0.6], [0.5]]}}
"""


def spec() -> SearchSpec:
    stages = build(parse(CONFIG), "f", lambda _: range(3)).stages
    (found,) = (stage.spec for stage in stages if isinstance(stage.spec, SearchSpec))
    return found


def trial(number: int, validations: list[float], error: str | None = None, **values: Any) -> dict[str, Any]:
    rows = [{"epoch": i + 1, "validation": v, "seconds": 2.0, "directory": "d"} for i, v in enumerate(validations)]
    return _summary(number, {"values": values, "rows": rows, "error": error}, spec())


def test_a_trial_is_judged_by_its_best_epoch_and_the_later_one_of_equals() -> None:
    found = trial(0, [0.5, 0.7, 0.7])
    assert (found["validation"], found["best_epoch"], found["epochs"], found["seconds"]) == (0.7, 3, 3, 6.0)
    assert not found["stopped"] and trial(0, [0.5])["stopped"]
    assert trial(0, [])["validation"] is None


def test_the_best_trial_wins_the_earlier_one_of_equals_and_never_one_that_broke() -> None:
    broken = trial(2, [0.9], error="NonFiniteLoss")
    winner = choose([trial(0, [0.5]), trial(1, [0.6]), broken, trial(3, [0.6])])
    assert winner is not None and winner["trial"] == 1
    assert choose([broken, trial(3, [])]) is None


def test_values_that_are_lists_or_nothing_reach_the_distillation_as_they_are() -> None:
    values = {"loss.kd": 0.5, "schedule.milestones": [0.3, 0.6]}
    found = trial(0, [0.5], **values)
    assert found["values"] == values
    assert _row(found)["schedule.milestones"] == "[0.3, 0.6]" and _row(found)["loss.kd"] == 0.5
