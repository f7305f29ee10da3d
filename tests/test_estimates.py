"""What the rest of a plan will cost, from what a store has measured; and what a store can do without."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fusiondistill.checkpoints import CheckpointError, new_attempt
from fusiondistill.config import Resources
from fusiondistill.config_file import parse
from fusiondistill_runner.cli import main
from fusiondistill_runner.forecasting.costs import cost_lines
from fusiondistill_runner.forecasting.estimates import Estimates, measured
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import JUDGING
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import trial_stage
from fusiondistill_runner.storage import noted_plans
from fusiondistill_runner.storage.pruning import unneeded
from fusiondistill_runner.storage.store import Store

FOUR = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}
SEARCH = "search={trials: 4, epochs: 5, space: {loss.kd: {uniform: [0, 1]}}}"


def plan(*overrides: str) -> Plan:
    return build(parse("experiment: x\n", overrides=overrides), "f" * 64, FOUR.__getitem__, test_images=400)


def store_all(store: Store, content: Plan, seconds: dict[str, float]) -> None:
    """Commit every stage, as if it had taken so many seconds by its kind."""
    for stage in content.stages:
        facts = {"seconds": seconds[stage.kind], "training_seconds": seconds[stage.kind]}
        store.commit(stage, {"a.txt": b"a" * 1000}, facts, new_attempt())
    noted_plans.note_plan(store, content, {})


def named(content: Plan, name: str, seed: int = 0) -> Stage:
    return next(s for s in content.stages if (s.name, s.seed) == (name, seed))


def test_nothing_is_claimed_of_what_was_never_measured(tmp_path: Path) -> None:
    content = plan()
    assert measured(Store(tmp_path)).seconds(content.stages[0]) is None
    lines = cost_lines(content.stages, Estimates(), Resources())
    assert f"{len(content.stages)} stages to do: " in lines[0] and "unknown" in lines[1]
    assert cost_lines([], Estimates(), Resources()) == ["nothing to do"]


def test_time_grows_with_the_work_and_another_config_of_the_same_store_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store_all(store, plan("data.train_images=100"), {"train": 60.0, "fuse": 5.0, "evaluate": 8.0, "validate": 1.0})
    found = measured(store)
    same = plan("data.train_images=100", "seeds=[7]")
    assert found.seconds(named(same, "base", 7)) == pytest.approx(60)
    more = plan("data.train_images=200", "base.epochs=400", "evaluation.every=100")
    assert found.seconds(named(more, "base")) == pytest.approx(60 * 4)  # twice the images, twice the epochs
    assert found.seconds(named(more, "evaluate-base-jpeg")) == pytest.approx(8 * 2 / 101)
    # Nothing was measured for a search, another network, another data set, or all images.
    other = plan(SEARCH, "data.train_images=100", "model.name=cifar_resnet8")
    assert found.seconds(named(plan(SEARCH, "data.train_images=100"), "search-fusiondistill")) is None
    assert found.seconds(named(other, "base")) is None
    assert found.seconds(named(plan("data.train_images=100", "data.name=cifar10"), "base")) is None
    assert found.seconds(named(plan(), "base")) is None


def test_the_cost_is_in_device_hours(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store_all(store, plan("methods=[base]"), {"train": 3600.0, "evaluate": 450.0, "validate": 0.0})
    found = measured(store)
    missing = list(plan("methods=[base]", "seeds=[1, 2]").stages)
    lines = cost_lines(missing, found, Resources())
    assert lines[0] == "12 stages to do: 2 train, 8 evaluate, 2 validate" and "about 3.00 device-hours" in lines[1]
    assert "0.75 GPU-hours (3 worker-hours)" in cost_lines(missing, found, Resources(gpus_per_worker=0.25))[1]
    vanilla = plan("methods=[base, fusiondistill]", "seeds=[1]").stages
    assert "unknown time for 5 train, 1 fuse" in cost_lines(vanilla, found, Resources())[2]


def test_prune_takes_what_no_plan_needs_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(CheckpointError, match="does not exist"):
        unneeded(store)
    assert not (tmp_path / "store").exists()
    seconds = {"train": 1.0, "fuse": 1.0, "evaluate": 1.0, "validate": 1.0, "search": 1.0}
    before, after = plan("methods=[base, vanilla]"), plan("methods=[base, vanilla]", "vanilla.epochs=3")
    store_all(store, before, seconds)
    (tmp_path / "store" / "my notes-0123").mkdir()
    assert unneeded(store) == []
    store_all(store, after, seconds)
    old = {s.directory for s in before.stages} - {s.directory for s in after.stages}
    found = unneeded(store)
    assert {one.directory for one in found} == old and all(one.bytes > 1000 for one in found)
    run = CliRunner().invoke(main, ["prune", store.location], input="")
    assert run.exit_code == 0 and "nothing deleted" in run.output and {o.directory for o in unneeded(store)} == old
    run = CliRunner().invoke(main, ["prune", store.location, "--yes"])
    assert run.exit_code == 0 and f"deleted: {len(old)} directories" in run.output
    assert unneeded(store) == [] and (tmp_path / "store" / "my notes-0123").exists()
    assert store.stored(after.stages)[0] == {s.digest for s in after.stages}


def test_prune_goes_by_the_kind_of_a_stage_and_not_by_its_name(tmp_path: Path) -> None:
    store, seconds = Store(tmp_path), {"train": 1.0, "fuse": 1.0, "evaluate": 1.0, "validate": 1.0}
    odd = "define={search-x: {like: base, epochs: 3}, trial-y: {like: base, epochs: 2}}"
    content = plan(odd, "methods=[base, search-x, trial-y]", "base.epochs=1")
    store_all(store, content, seconds)
    assert unneeded(store) == [] and {"search-x", "trial-y"} <= {stage.name for stage in content.stages}
    store_all(store, plan(odd, "methods=[base]", "base.epochs=1"), seconds)
    assert {"search-x", "trial-y"} <= {one.directory.rpartition("-")[0] for one in unneeded(store)}


def test_prune_keeps_what_an_unfinished_search_may_need_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    content = plan("search={trials: 4, epochs: 5, space: {start.merge: {choice: [average, ties]}}}")
    search = named(content, "search-fusiondistill")
    trials = [trial_stage(search, {"start.merge": merge}) for merge in ("average", "ties")]
    (trial,) = (one for one in trials if one.inputs["start"] is not search.inputs["start"])
    merge = trial.inputs["start"]
    other = plan("base.epochs=3", "define={trial-y: {like: base, epochs: 2}}", "methods=[base, modelsoups, trial-y]")
    strangers = [stage for stage in other.stages if stage.kind not in JUDGING]
    for stage in (*content.stages, trial, merge, *strangers):
        if stage is not search:
            store.commit(stage, {"a.txt": b"a"}, {"seconds": 1.0}, new_attempt())
    noted_plans.note_plan(store, content, {})
    planned = {stage.directory for stage in content.stages}
    assert merge.directory not in planned and {stage.kind for stage in strangers} == {"train", "fuse"}
    # Its inputs are stages of no plan: that merge is no start of this search.
    assert {one.directory for one in unneeded(store)} == {stage.directory for stage in strangers} - planned
    (tmp_path / merge.directory / "manifest.json").write_text("damaged")
    (tmp_path / strangers[0].directory / "manifest.json").write_text("damaged")
    assert {one.directory for one in unneeded(store)} == {stage.directory for stage in strangers} - planned


def test_prune_keeps_the_trials_of_a_planned_search(tmp_path: Path) -> None:
    store = Store(tmp_path)
    content = plan(SEARCH)
    search = named(content, "search-fusiondistill")
    mine, other = (trial_stage(search, {"loss.kd": kd}) for kd in (0.5, 0.7))
    for stage in (*content.stages, mine, other):
        if stage is not search:
            store.commit(stage, {"a.txt": b"a"}, {"seconds": 1.0}, new_attempt())
    noted_plans.note_plan(store, content, {})
    assert unneeded(store) == []  # the search is not done: both may be its
    facts = {"seconds": 1.0, "training_seconds": 1.0, "outcome": {"directories": [mine.directory]}}
    store.commit(search, {"a.txt": b"a"}, facts, new_attempt())
    assert [one.directory for one in unneeded(store)] == [other.directory]
    noted_plans.note_plan(store, plan("base.epochs=3"), {})
    assert {"trial", "search", "base"} <= {one.directory.split("-")[0] for one in unneeded(store)}
