"""Golden results: what an entry or a kind of stage gives does not change while its version stays the same."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fusiondistill import DEGRADATIONS, INFERENCE, LOSSES, MERGING
from fusiondistill.config_file import parse
from fusiondistill.plugins import _loaded, load_plugins, read_plugins
from fusiondistill.registry import Registry
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import (
    CheckpointSpec,
    EvaluateSpec,
    FitSpec,
    MergeSpec,
    PackSpec,
    SearchSpec,
    TrainSpec,
    ValidateSpec,
)
from fusiondistill_runner.planning.stage import ancestors
from golden import cases, stages
from golden.comparing import FILE, problem, read, text, written

CASES = cases.cases()
STORED = read()
LEVELS = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}


@pytest.mark.parametrize("key", sorted(CASES))
def test_a_result_that_changed_has_a_new_version(key: str) -> None:
    wrong = problem(key, STORED.get(key), CASES[key]())
    assert wrong is None, wrong


def test_the_file_is_as_the_command_writes_it() -> None:
    assert FILE.read_text() == text(STORED), "written by hand? run `make golden`"
    assert STORED.keys() == CASES.keys(), "run `make golden`"


def test_there_are_results_of_every_entry_and_every_kind_of_stage() -> None:
    for folder, registry in (
        ("degradations", DEGRADATIONS), ("merging", MERGING), ("losses", LOSSES), ("inference", INFERENCE),
    ):  # fmt: skip
        assert {f"{folder}/{name}" for name in registry.builtin} <= STORED.keys()
    for spec in (TrainSpec, MergeSpec, SearchSpec, FitSpec, PackSpec, EvaluateSpec, ValidateSpec, CheckpointSpec):
        found = [one for key, one in STORED.items() if f"{spec.kind} {spec.version}" in one["version"]]
        assert found


# The test itself, tested.


def replaced(patch: pytest.MonkeyPatch, registry: Registry[Any], name: str, **changes: Any) -> None:
    """A built-in entry with other code or another version."""
    patch.setitem(registry._builtin, name, dataclasses.replace(registry[name], **changes))


def sums(experts: Any, at: Any) -> Any:
    """Not the mean."""
    return {key: sum(state[key] for state in experts) for key in experts[0]}


def test_a_merging_method_that_changed_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, MERGING, "average", function=sums)
    found = cases.merging("average")
    wrong = problem("merging/average", STORED["merging/average"], found)
    assert wrong is not None and "merging/average gives another result than before ({})" in wrong
    assert "raise the version of the merging method average" in wrong and wrong.endswith(
        "python tests/golden/write.py)"
    )
    content, refused = written(STORED, {"merging/average": found})
    assert refused == [wrong] and content == {"merging/average": STORED["merging/average"]}
    replaced(monkeypatch, MERGING, "average", version=2)
    found = cases.merging("average")
    wrong = problem("merging/average", STORED["merging/average"], found)
    assert wrong == "merging/average has a new version (1 -> 2): run `make golden` (python tests/golden/write.py)"
    content, refused = written(STORED, {"merging/average": found})
    assert not refused and content["merging/average"]["version"] == "2"
    assert problem("merging/average", content["merging/average"], found) is None


def test_a_small_change_of_a_loss_term_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kd = LOSSES["kd"].function

    def times(factor: float) -> Any:
        return functools.wraps(kd)(lambda *given, **more: factor * kd(*given, **more))

    replaced(monkeypatch, LOSSES, "kd", function=times(1.001))
    wrong = problem("losses/kd", STORED["losses/kd"], cases.loss("kd"))
    assert wrong is not None and "raise the version of the loss term kd" in wrong
    replaced(monkeypatch, LOSSES, "kd", function=times(1 + 1e-6))
    assert problem("losses/kd", STORED["losses/kd"], cases.loss("kd")) is None, "other processors are as far away"


def test_one_grey_value_of_one_pixel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = DEGRADATIONS["jpeg"].function

    def off_by_one(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        out = jpeg(images, levels)
        out[0, 0, 0, 0] ^= 1
        return out

    replaced(monkeypatch, DEGRADATIONS, "jpeg", function=off_by_one)
    assert problem("degradations/jpeg", STORED["degradations/jpeg"], cases.degradation("jpeg")) is not None


def test_the_training_loop_and_the_batches_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("fusiondistill.batches.padded_crop", lambda images, *given: images)
        found = stages.batches()
    wrong = problem("stages/train batches", STORED["stages/train batches"], found)
    assert wrong is not None and "raise the TrainSpec.version" in wrong
    with monkeypatch.context() as patch:
        patch.setattr("fusiondistill.evaluation.single_apart", lambda model, images: (model(images.flip(0)), None))
        assert stages.validation().exact != STORED["stages/train validation"]["exact"]
    with monkeypatch.context() as patch:
        patch.setattr("fusiondistill.recipe.Schedule.rate", lambda *given: 1.0)
        patch.setattr(stages, "keep", [])
        stages.folder.cache_clear(), stages.ran.cache_clear(), stages.counter.cache_clear()
        wrong = problem("stages/train standard", STORED["stages/train standard"], stages.of_run("standard", "train"))
        assert wrong is not None and "raise the TrainSpec.version" in wrong
    stages.folder.cache_clear(), stages.ran.cache_clear(), stages.counter.cache_clear()


def test_new_cases_are_written_and_old_lines_stay(tmp_path: Path) -> None:
    key, stored = "losses/ce", STORED["losses/ce"]
    nearly = {case: [value + 1e-6 for value in values] for case, values in stored["close"].items()}
    same = cases.Found(stored["version"], "", stored["exact"], nearly)
    assert written(STORED, {key: same}) == ({key: stored}, [])
    more = dataclasses.replace(same, close={**nearly, "another": [1.0]})
    assert "other cases" in (problem(key, stored, more) or "")
    content, refused = written(STORED, {key: more})
    assert not refused and list(content[key]["close"]) == [*nearly, "another"]
    (tmp_path / "golden.json").write_text(text(STORED))
    assert read(tmp_path / "golden.json") == STORED and problem(key, None, same)


# At the level of plans: which stages a version makes new.

CONFIG = """
experiment: x
methods: [base, scratch, oracle, modelsoups, fusiondistill, mine, vanilla, lossy]
PLUGINS
define:
  mine: {like: fusiondistill, start: {merge: ties, of: expert, density: 0.3}}
  lossy: {like: vanilla, loss: {LOSSY: 0.5}}
"""


def plan(plugin: Path | None = None) -> Plan:
    lossy, plugins = ("margin", f"plugins: [{plugin}]") if plugin else ("ce", "")
    content = CONFIG.replace("LOSSY", lossy).replace("PLUGINS", plugins)
    return build(parse(content), "f" * 64, LEVELS.__getitem__, test_images=400, parameters=1)


def new(before: Plan, after: Plan) -> set[str]:
    """Names of the stages of the later plan that the earlier one does not have."""
    known = {stage.digest for stage in before.stages}
    return {stage.name for stage in after.stages if stage.digest not in known}


def using(content: Plan, entry: str) -> set[str]:
    """Names of the stages that use an entry or rest on one that does."""
    return {s.name for s in content.stages if any(entry in needed.code for needed in ancestors(s))}


def test_a_new_version_of_ties_makes_what_uses_it_new_and_keeps_base_and_experts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = plan()
    replaced(monkeypatch, MERGING, "ties", version=MERGING["ties"].version + 1)
    after = plan()
    four = {"jpeg", "blur", "noise", "saltpepper"}
    assert new(before, after) == using(after, "merging/ties")
    merged = {name for name in new(before, after) if not name.startswith(("evaluate", "validate"))}
    kept = {stage.name for stage in after.stages if stage.digest in {s.digest for s in before.stages}}
    assert {"base", "fusiondistill", "scratch", "vanilla", *(f"expert-{d}" for d in four)} <= kept
    assert "mine" in merged and new(before, after) - merged == {"validate-mine", *(f"evaluate-mine-{d}" for d in four)}
    assert {stage.kind for stage in after.stages if stage.name in merged} == {"fuse", "train"}
    assert (
        sum(stage.kind == "fuse" and stage.digest not in {s.digest for s in before.stages} for stage in after.stages)
        == 1
    )


def test_a_new_version_of_a_kind_of_stage_makes_these_stages_new(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan()
    monkeypatch.setattr(EvaluateSpec, "version", EvaluateSpec.version + 1)
    after = plan()
    assert new(before, after) == {s.name for s in after.stages if s.kind == "evaluate"}
    monkeypatch.setattr(MergeSpec, "version", MergeSpec.version + 1)
    trained = {s.name for s in plan().stages if s.digest not in {one.digest for one in after.stages}}
    assert trained & {"base", "scratch", "vanilla", "expert-jpeg"} == set() and {"fusiondistill", "mine"} <= trained


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "margin.py"
    path.write_bytes((Path(__file__).parent / "plugins" / "margin.py").read_bytes())
    yield path
    LOSSES.forget("margin.py")
    _loaded.pop("margin.py", None)


def test_an_edited_loss_plugin_makes_the_trainings_that_use_it_new_and_no_base(plugin: Path) -> None:
    before = plan(plugin)
    assert not new(before, plan(plugin))
    plugin.write_text(plugin.read_text() + "\n# mended\n")
    after = plan(plugin)
    assert (
        new(before, after)
        == {"lossy", "validate-lossy", *(f"evaluate-lossy-{d}" for d in LEVELS)}
        == using(after, "losses/margin")
    )
    load_plugins(read_plugins([str(plugin)]))
    assert not new(after, plan(plugin))


@pytest.mark.slow
def test_the_command_changes_nothing_where_nothing_is_new() -> None:
    before = FILE.read_bytes()
    line = [sys.executable, str(FILE.parent / "write.py")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and FILE.read_bytes() == before
