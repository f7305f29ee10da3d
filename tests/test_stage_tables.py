"""What stages leave beside counts, as the report shows it, from stages committed by the test."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from fusiondistill.checkpoints import new_attempt
from fusiondistill.report.words import MISSING
from fusiondistill_runner import runner
from fusiondistill_runner.driving.prepared import prepare
from fusiondistill_runner.planning.specs import MergeSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage import noted_plans
from fusiondistill_runner.views import results
from fusiondistill_runner.views.stage_tables import facts, stage_tables
from fusiondistill_runner.watching.status import status_lines, watch
from report_tables import Page
from running import TINY, finished, stages
from shelf import PLAN, Shelf, drawn


def test_ways_of_fusing_that_a_search_chooses_between_are_told_apart(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    template = next(stage.spec for stage in PLAN.stages if isinstance(stage.spec, MergeSpec))
    for seed, (i, way) in itertools.product((0, 1), enumerate((("average", "mixed"), ("ties", "none")))):
        fused = Stage("fused", seed, template.model_copy(update=dict(zip(("merge", "recalibrate"), way, strict=True))))
        points = [[a, 1.0 + i] for a in (0.0, 1.0)]
        outcome = {"distance": {"blur": 0.1 + 0.5 * i}, "barrier": 1.0 + i, "surface": {"blur": points}}
        if i:
            outcome["chosen"] = {"density": 0.5, "validation": 0.25, "candidates": 2}
        shelf.store.commit(fused, {}, {"outcome": outcome}, new_attempt())
        shelf.plan["stages"].append({"name": "fused", "kind": "fuse", "seed": seed, "directory": fused.directory})
    table = shelf.write()
    page = Page(Path(results.write_report(shelf.store, table)).read_text())
    assert [row for row in page.rows if row[0].startswith("fused")] == [
        ["fused (average, mixed)", "blur", "2", "0.100 ±0.000", "1.000 ±0.000"],
        ["fused (ties, none)", "blur", "2", "0.600 ±0.000", "2.000 ±0.000"],
        *(
            ["fused (ties, none)", seed, "density 0.5; 25.0 % right on validation; best of 2 candidates"]
            for seed in ("0", "1")
        ),
    ]
    surfaces = sorted(path.name for path in (tmp_path / "report" / "figures").glob("surface*.svg"))
    assert surfaces == ["surface-fused-average-mixed.svg", "surface-fused-ties-none.svg"]
    shelf.plan["stages"] = shelf.plan["stages"][::2]
    fusion = stage_tables(shelf.store, [shelf.plan])["fusion"]
    assert fusion is not None and set(fusion["stage"].to_pylist()) == {"fused"}, "one a seed needs no telling apart"


APART = """
experiment: apart
seeds: [0]
data: {name: digits, train_images: 100, test_images: 40}
model: {name: cifar_resnet8}
degradations: [jpeg, blur]
methods: [base, fusing]
base: {epochs: 1}
expert: {epochs: 1, start: random, teachers: null, loss: {feature: 0}}
fusing: {epochs: 1}
evaluation: {every: 50}
"""


def test_experts_that_start_from_no_common_network_have_no_distance() -> None:
    _, store, _ = finished(APART)
    (merged,) = stages(store, "fused")
    outcome = json.loads((merged / "manifest.json").read_text())["outcome"]
    assert "distance" not in outcome
    page = Page(text := (store / "report" / "index.html").read_text())
    assert "in memory (4 trainings)" in text and "]: that of the training images" in text
    rows = [row for row in page.rows if row[0] == "fused"]
    assert rows == [["fused", name, "1", MISSING, f"{outcome['barrier']:.3f}"] for name in ("blur", "jpeg")]


def test_a_report_in_a_store_leaves_no_figure_of_an_earlier_one(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.piece("base", 0, "blur", drawn(2, 0.5, 0), (0, 10))
    results.write_report(shelf.store, shelf.write())
    figures = tmp_path / "report" / "figures"
    (figures / "accuracy-gone.png").write_bytes(b"")
    (figures / "notes.txt").write_bytes(b"")
    results.write_report(shelf.store, shelf.write())
    assert sorted(path.name for path in figures.iterdir()) == ["accuracy-blur.png", "accuracy-blur.svg", "notes.txt"]


def test_time_spent_training_is_that_of_trainings_on_all_their_workers(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    spec = next(stage.spec for stage in PLAN.stages if isinstance(stage.spec, TrainSpec))
    for seed, workers in ((0, 1), (1, 4)):
        stage = Stage("base", seed, spec.model_copy(update={"world_size": workers}))
        shelf.store.commit(stage, {}, {"training_seconds": 60.0}, new_attempt())
        shelf.plan["stages"].append({"name": "base", "kind": "train", "seed": seed, "directory": stage.directory})
    directory = shelf.piece("base", 0, "blur", drawn(2, 0.5, 0), (0, 10))
    shelf.plan["stages"].append({"name": "evaluate", "kind": "evaluate", "seed": 0, "directory": directory})
    assert facts(shelf.store, [shelf.plan])["time spent training"] == "5.0 worker-minutes in 2 trainings"


def test_a_part_of_a_plan_does_not_take_the_place_of_the_command_that_did_all_of_it(tmp_path: Path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(TINY)
    ready = prepare(str(config), (), str(tmp_path / "store"))

    def noted(command: str, whole: bool, *overrides: str) -> str:
        runner.note_plan(prepare(str(config), overrides, str(tmp_path / "store")), command, whole=whole)
        return str(noted_plans.plans(ready.store)[0]["command"])

    assert noted("search x", False) == "search x", "no command did more"
    (said,) = (text for name, text in facts(ready.store, noted_plans.plans(ready.store)).items() if "normalis" in name)
    assert said.endswith("]: that of the training images")
    assert noted("run x", True) == "run x"
    assert noted("search x", False) == "run x", "a run makes all of it again"
    assert noted("search x --set", False, "base.epochs=3") == "search x --set", "of another plan it does not"


def coded(shelf: Shelf, *digests: str | None) -> None:
    """Stages that these versions of the code made."""
    spec = next(stage.spec for stage in PLAN.stages if isinstance(stage.spec, TrainSpec))
    for seed, digest in enumerate(digests):
        stage = Stage("base", seed, spec)
        code = None if digest is None else {"version": "0.2.0", "digest": digest * 16}
        shelf.store.commit(stage, {}, {"code": code}, new_attempt())
        shelf.plan["stages"].append({"name": "base", "kind": "train", "seed": seed, "directory": stage.directory})
    shelf.write()


def test_a_store_of_one_version_of_the_code_names_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    coded(shelf, "abcd", "abcd", None)
    assert facts(shelf.store, [shelf.plan])["code"] == "fusiondistill 0.2.0 (abcdabcd)"
    assert not any("versions of the code" in line for line in status_lines(shelf.store))


def test_a_store_that_mixes_code_says_so(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    coded(shelf, "abcd", "ef01", "abcd")
    said = (
        "made by 2 versions of the code: fusiondistill 0.2.0 (abcdabcd) made 2 stages, "
        "fusiondistill 0.2.0 (ef01ef01) made 1 stage"
    )
    assert facts(shelf.store, [shelf.plan])["code"] == said and said in status_lines(shelf.store)
    lines: list[str] = []
    assert watch(shelf.store, 0.01, lines.append) and any(said in line for line in lines)


def test_a_store_of_before_there_was_such_a_note_says_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    coded(shelf, None, None)
    assert "code" not in facts(shelf.store, [shelf.plan])
