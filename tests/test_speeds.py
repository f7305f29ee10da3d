"""Speeds: rates of a few steps, noted for later, and the seconds of stages that are made of them."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fusiondistill import speed
from fusiondistill.config import Resources
from fusiondistill.config_file import parse_points
from fusiondistill.fitting import Training, random_network
from fusiondistill.recipe import Recipe
from fusiondistill.recipes import RECIPES
from fusiondistill_runner.cli import main
from fusiondistill_runner.driving.prepared import Prepared, prepare_points
from fusiondistill_runner.forecasting import speeds as speeds_of_machine
from fusiondistill_runner.forecasting.budgets import Shortening, shortened
from fusiondistill_runner.forecasting.duration import REPORT, START, Duration
from fusiondistill_runner.forecasting.simulation import FIT_START
from fusiondistill_runner.forecasting.speeds import START as STAGE_START
from fusiondistill_runner.forecasting.speeds import Speeds

CPU = torch.device("cpu")
CONFIG = """
experiment: timed
data: {name: digits, train_images: 60, test_images: 20}
model: {name: cifar_resnet8}
degradations: [noise, saltpepper]
methods: [base, modelsoups]
base: {epochs: 20, batch_size: 16}
expert: {epochs: 10, batch_size: 16}
evaluation: {every: 25}
"""


def planned(*overrides: str) -> Prepared:
    return prepare_points(*parse_points(CONFIG, overrides=overrides))


@pytest.fixture(scope="module", autouse=True)
def nothing_measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache in which no other test has measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONDISTILL_CACHE", str(tmp_path_factory.mktemp("speeds")))
        yield


@pytest.fixture(scope="module")
def measured(nothing_measured: None) -> Shortening:
    prepared, said = planned(), list[str]()
    speeds = Speeds(prepared.context, CPU)
    assert all(speeds.seconds(stage) is None for stage in prepared.plan.stages)
    speeds.measure(prepared.plan.stages, said.append, seconds=0.01)
    assert len(said) == len(set(said)) == 6  # three kinds of training, a network, two degradations
    return Shortening(prepared, speeds, local=True)


def test_a_rate_is_that_of_long_calls_and_survives_one_that_was_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], list[int]()

    def call(count: int) -> int:
        calls.append(count)
        held_up = 5.0 if len(calls) in (1, 3) else 0.0  # the first call compiles, another process stops the third
        now[0] += 0.002 * count + 0.01 + held_up
        return count

    monkeypatch.setattr(speed, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    found = speed._seconds_each(call, 1.0, CPU)
    assert found == pytest.approx(0.002 + 0.01 / calls[-1]) and calls[-1] * found > 1 / 8
    assert all(later <= speed.GROWTH * before for before, later in pairwise(calls)) and now[0] < 12
    calls.clear()
    speed._seconds_each(call, 0.001, CPU)  # a few images take longer than all that there is time for
    assert len(calls) == 3


def test_timed_steps_change_no_weight_and_need_their_teachers(tiny) -> None:
    recipe = Recipe.model_validate({**RECIPES["paper"]["all-merged-taught"], "batch_size": 8})
    training, network = (
        Training(recipe, tiny(20), degradations=("noise", "saltpepper")),
        random_network("cifar_resnet8", 3, 0),
    )
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    found = speed.training_speed(training, network, [random_network("cifar_resnet8", 3, 1)] * 2, seconds=0.01)
    assert min(found.image, found.validated, found.epoch) > 0 and set(found.progress.model) == set(network.state_dict())
    assert all(torch.allclose(tensor, before[name], atol=1e-3) for name, tensor in network.named_parameters())
    with pytest.raises(ValueError, match="teacher per degradation"):
        speed.training_speed(training, network, seconds=0.01)
    together = replace(training, taught_by="confidence", together=("a", "b", "c"))
    three = [random_network("cifar_resnet8", 3, 1)] * len(together.taught)
    assert speed.training_speed(together, network, three, seconds=0.01).image > 0


def test_seconds_follow_from_epochs_images_and_levels(measured: Shortening) -> None:
    speeds, stages = measured.speeds, {stage.name: stage for stage in measured.stages}

    def work(stage) -> float:
        return speeds.seconds(stage) - STAGE_START[stage.kind]

    base, judged = stages["base"], stages["evaluate-base-noise"]
    assert work(shortened(base, 0.5)) == pytest.approx(work(base) / 2)
    every = planned("evaluation.every=10").plan.stages
    more = next(stage for stage in every if stage.name == judged.name)
    assert work(more) == pytest.approx(work(judged) * len(more.spec.levels) / len(judged.spec.levels))
    facts = speeds._noted(speeds._steps(base.spec))["seconds"]
    each = 54 * facts["image"] + 6 * facts["validated"] + facts["epoch"]  # a tenth of 60 images is held out
    assert work(base) == pytest.approx(20 * each)
    searched = planned("search={trials: 3, epochs: 4, space: {loss.kd: {uniform: [0, 1]}}}", "methods=[fusiondistill]")
    search = next(stage for stage in searched.plan.stages if stage.kind == "search")
    assert speeds.seconds(search) is None  # another kind of training: it has teachers


def test_what_was_measured_is_found_again_and_nothing_else(measured: Shortening) -> None:
    again = Speeds(measured.prepared.context, CPU)
    assert all(again.seconds(one) == measured.speeds.seconds(one) for one in measured.stages) and again.since
    for change in ("base.batch_size=8", "model.name=cifar_resnet14", "base.precision=bf16", "data.size=8"):
        assert again.seconds(planned(change).plan.stages[0]) is None, change
    assert again.seconds(planned("base.epochs=3", "seeds=[5]", "base.optimizer.lr=0.01").plan.stages[0]) is not None


def test_a_run_takes_its_stages_one_after_another_or_side_by_side(measured: Shortening) -> None:
    seconds = dict.fromkeys((stage.digest for stage in measured.stages), 100.0)
    alone = Duration.of(measured.stages, seconds, Resources())
    assert alone.local == pytest.approx(START + 100 * len(measured.stages) + REPORT)
    one = Duration.of(measured.stages, seconds, Resources(workers=1))
    assert one.workers == 1 and one.ray > alone.local + FIT_START and alone.ray <= one.ray
    assert Duration.of(measured.stages, seconds, Resources(cpus_per_worker=10_000)).ray is None
    assert measured.wall(20) == pytest.approx(measured.duration(20).local)
    for budget in (measured.wall(7) + 1e-6, measured.wall(1) / 2, 1e9):
        most = measured.most(budget)
        assert most == 0 or measured.wall(most) <= budget
        assert most == measured.longest or measured.wall(most + 1) > budget
    assert replace(measured, local=False).wall(5) == measured.duration(5).ray


def test_plan_says_how_to_measure_and_what_was_measured(
    measured: Shortening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)

    def plan(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["plan", str(tmp_path / "c.yaml"), "--store", str(tmp_path / "s"), *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    known = plan()
    assert "a few seconds of work measured on this machine (20" in known and "with --local, " in known
    assert "device-" in known and "simulated as the driver would run it" in plan("--simulate", "workers=3")
    run = json.loads(plan("--json"))["run"]
    assert run["local"] > 0 and run["ray"] > 0 and run["workers"] >= 1
    other = ("--set", "base.batch_size=12")
    for way in (("--no-measure",), ("--times", "fuse=1", "--simulate", "workers=1")):
        unknown = plan(*other, *way)
        assert "an unknown time for 1 train" in unknown and "--measure measures" in unknown, way
        assert "--local, " not in unknown
    if not torch.cuda.is_available():  # times of a CPU are none of a GPU
        there = ("--set", "resources.gpus_per_worker=1")
        assert "cost unknown" in (said := plan(*there)) and "this machine has none to measure on" in said
        refused = CliRunner().invoke(main, ["plan", str(tmp_path / "c.yaml"), "--measure", *there])
        assert refused.exit_code == 2 and "error: --measure: workers need a GPU" in refused.output
    assert "measuring steps of" in plan(*other) and "unknown" not in plan(*other)
    monkeypatch.setattr(speeds_of_machine, "training_speed", lambda *_, **__: 1 / 0)
    assert "could not be measured: ZeroDivisionError" in plan("--set", "base.batch_size=11")
