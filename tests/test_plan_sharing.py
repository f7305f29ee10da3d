"""What plans for one store share: one digest is one stage with one directory, under any name in each plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fusiondistill import save_checkpoint
from fusiondistill.config_file import parse, parse_points
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import Plan, union
from fusiondistill_runner.planning.specs import MergeSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import as_it_stands, chosen_start, trial_stage
from fusiondistill_runner.searching.search_results import best_config

SPACE = "space: {loss.kd: {uniform: [0, 1]}, start.merge: {choice: [average, ties, median]}}"


def built(text: str, *overrides: str) -> Plan:
    return build(parse(f"experiment: x\n{text}", overrides=overrides), "f", lambda _: range(3))


def named(content: Plan, name: str) -> Stage:
    (stage,) = [s for s in content.stages if s.name == name]
    return stage


def swept(text: str) -> Plan:
    whole, points = parse_points(f"experiment: x\n{text}")
    shared: dict[str, Stage] = {}
    plans = [build(point, "f", lambda _: range(3), shared=shared) for point in points]
    return union(whole, plans)


def check(together: Plan) -> None:
    """Every input, and every row's stage, is one of the stages, which come after what they rest on."""
    seen: dict[str, Stage] = {}
    for stage in together.stages:
        assert all(seen.get(needed.digest) is needed for needed in stage.inputs.values()), stage.name
        assert stage.digest not in seen
        seen[stage.digest] = stage
    assert all(seen[row.stage.digest] is row.stage for row in together.rows)
    assert len({stage.directory for stage in seen.values()}) == len(seen)


def test_points_that_merge_alike_share_the_merged_networks() -> None:
    together = swept(f"sweep: {{modelsoups.start.merge: [average, ties]}}\nsearch: {{{SPACE}}}\n")
    check(together)
    fused = [s for s in together.stages if isinstance(s.spec, MergeSpec)]
    assert {s.name for s in fused} == {"fused"} and len(fused) == 2
    first, other = fused
    search = next(s for s in together.stages if s.kind == "search" and s.inputs["start"] is first)
    assert chosen_start(first, {"start.merge": "ties"}).digest == other.digest  # a trial finds the other point's
    assert trial_stage(search, {"loss.kd": 0.5, "start.merge": "ties"}).inputs["start"].digest == other.digest


def test_a_checkpoint_that_stands_for_different_stages_lies_in_one_place(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", {"w": torch.ones(2)}, {})
    path = tmp_path / "a"
    together = swept(f"sweep: {{mine: [{{base: {{checkpoint: {path}}}}}, {{fusion: {{checkpoint: {path}}}}}]}}\n")
    check(together)
    (only,) = [s for s in together.stages if s.kind == "import"]
    users = {(s.name, role) for s in together.stages for role, needed in s.inputs.items() if needed is only}
    assert only.name == "base" and {("vanilla", "start"), ("fusing", "start")} <= users


def plain_of(text: str, *overrides: str) -> tuple[Stage, Stage]:
    content = built(f"search: {text}\n", *overrides)
    return named(content, "search-fusiondistill"), named(content, "fusiondistill")


def test_the_recipe_as_it_stands_is_trained_once_where_it_is_a_trial_too() -> None:
    search, distilled = plain_of(f"{{seeds: 2, {SPACE}}}")
    assert search.inputs["plain"] is distilled
    first = as_it_stands(search)
    assert trial_stage(search, first) is distilled
    repeat, other = trial_stage(search, first, 1), trial_stage(search, {**first, "loss.kd": 0.5})
    assert repeat.name == other.name == "trial" and "plain" not in {*repeat.inputs, *other.inputs}
    assert trial_stage(search, {**first, "start.merge": "ties"}).name == "trial"
    content = built(f"search: {{{SPACE}}}\n")
    assert "plain" not in named(content, "fusiondistill-searched").inputs
    found: dict[str, Any] = {"loss.kd": 0.5, "start.merge": "average"}
    best = named(
        build(parse(best_config(content.config, "fusiondistill", found)), "f", lambda _: range(3)), "fusiondistill"
    )
    assert best.digest == trial_stage(named(content, "search-fusiondistill"), found).digest


def test_a_trial_that_differs_from_the_distillation_is_a_stage_of_its_own() -> None:
    for override in ("search.epochs=3", "select=last", "resources.workers_per_run=2"):
        search, distilled = plain_of(f"{{{SPACE}}}", override)
        assert "plain" not in search.inputs
        trial = trial_stage(search, as_it_stands(search))
        assert trial.name == "trial" and trial.digest != distilled.digest
    assert "plain" in plain_of(f"{{{SPACE}}}", "search.epochs=100", "select=validation")[0].inputs
