"""What rows cost: the training images of a planned run, against the plan's own graph of stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from fusiondistill import report
from fusiondistill.checkpoints import new_attempt
from fusiondistill.config_file import parse
from fusiondistill.report.costs import cost_grid
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.stage import Stage, ancestors
from fusiondistill_runner.planning.trials import AS_IT_STANDS, trial_stage
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.costs import costs_table
from shelf import FOUR, PLAN

SEED = PLAN.config.seeds[0]
TRAINED = [stage for stage in PLAN.stages if stage.kind == "train"]
IMAGES = {stage.directory: 3 * 4**i for i, stage in enumerate(TRAINED)}
"""Of an epoch: no sum of some of them is the sum of others. The trainings have two epochs."""
EPOCH = 1000


def metrics(images: int) -> dict[str, bytes]:
    return {"metrics.parquet": parquet_bytes(pa.table({"epoch": [1, 2], "images": [float(images)] * 2}))}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All stages of a plan with a search, as a run would leave them; trainings alone say how much they saw."""
    store = Store(tmp_path_factory.mktemp("costs"))
    for stage in PLAN.stages:
        files: dict[str, bytes] = metrics(IMAGES[stage.directory]) if stage.kind == "train" else {}
        if stage.kind == "search":
            other = trial_stage(stage, {"loss.ce": 0.7})
            store.commit(other, metrics(EPOCH), {}, new_attempt())
            plain = stage.inputs[AS_IT_STANDS].directory
            trials = [(other.directory, 2), (plain, 2), ("trial-0123456789abcdef", 1)]
            rows = [{"trial": i, "epochs": n, "seeds": 1, "directory": d} for i, (d, n) in enumerate(trials)]
            files = {"trials.parquet": parquet_bytes(pa.Table.from_pylist(rows))}
        store.commit(stage, files, {}, new_attempt())
    return store


def rests_on(method: str) -> int:
    """The images of all trainings below a row's evaluations, by the plan; a search costs two epochs and one more."""
    evaluations = [row.stage for row in PLAN.rows if (row.method, row.seed) == (method, SEED)]
    below: dict[str, Stage] = {stage.directory: stage for one in evaluations for stage in ancestors(one)}
    searches = sum(stage.kind == "search" for stage in below.values())
    return sum(2 * IMAGES.get(directory, 0) for directory in below) + 3 * EPOCH * searches


def own(*names: str) -> int:
    return sum(2 * IMAGES[s.directory] for s in TRAINED if s.name in names and s.seed == SEED)


def test_the_images_of_each_row_are_those_of_the_stages_below_it(store: Store) -> None:
    rows = {row["method"]: row for row in costs_table(store, [PLAN.describe()]).to_pylist() if row["seed"] == SEED}
    assert rows.keys() == {one.id for one in PLAN.descriptions}
    for name, row in rows.items():
        assert row["all_images"] == rests_on(name), name
    assert {name: row["own_images"] for name, row in rows.items()} == {name: own(name) for name in rows}, "combined: 0"
    searched = rows["fusiondistill-searched"]
    # The plain training is the search's first trial, so the searched row rests on it.
    assert searched["all_images"] - rows["fusiondistill"]["all_images"] == own(searched["method"]) + 3 * EPOCH
    assert rows["ensemble"]["own_images"] == 0 < rows["ensemble"]["all_images"] and rows["ensemble"]["passes"] == 4


def test_what_is_not_stored_is_not_known(store: Store, tmp_path: Path) -> None:
    part = Store(tmp_path)
    for stage in PLAN.stages:
        if stage.kind != "evaluate" or stage.name.startswith("evaluate-base"):
            files = metrics(7) if stage.name != "base" else {}
            part.commit(stage, files, {}, new_attempt())
    rows = costs_table(part, [PLAN.describe()]).to_pylist()
    assert {(row["own_images"], row["all_images"]) for row in rows} == {(None, None)}


def test_of_a_checkpoint_from_outside_nothing_is_known_and_what_starts_from_it_counts_its_own(tmp_path: Path) -> None:
    file = tmp_path / "given.safetensors"
    save_file({"weight": np.zeros(1)}, file)
    text = f"experiment: x\nmethods: [base, vanilla]\nbase: {{checkpoint: {file}}}\nevaluation: {{every: 50}}\n"
    plan, given = build(parse(text), "f", FOUR.__getitem__, sha256_of=lambda path: "0" * 64), Store(tmp_path / "store")
    for stage in plan.stages:
        given.commit(stage, metrics(7) if stage.kind == "train" else {}, {}, new_attempt())
    rows = costs_table(given, [plan.describe()]).to_pylist()
    found = {row["method"]: (row["own_images"], row["all_images"]) for row in rows}
    assert found == {"base": (None, None), "vanilla": (14, 14)}


def test_the_report_shows_them(store: Store) -> None:
    costs = costs_table(store, [PLAN.describe()])
    given: dict[str, Any] = {"experiment": "x", "model": "m", "dataset": "d", "protocol": "standard", "level": 0}
    counts = {"degradation": "blur", "right": 1, "seen": 2}
    results = pa.Table.from_pylist([{**given, "method": m, "seed": SEED, **counts} for m in ("base", "mine")])
    (group,) = report.summarise(results)
    grid = cost_grid(group, costs)
    assert grid and [row[0][0] for row in grid.rows] == ["base"], "nothing is on record for the other"
    assert grid.rows[0][3:] == ((f"{own('base'):,}", ""), (f"{own('base'):,}", ""))
    assert cost_grid(group, costs.slice(0, 0)) is None
    doubled = costs.set_column(2, "seed", pa.array([1] * costs.num_rows)).to_pylist()
    more = pa.Table.from_pylist([*costs.to_pylist(), *({**row, "own_images": 0} for row in doubled)])
    grid = cost_grid(group, more)
    assert grid and grid.rows[0][3] == (f"{own('base') // 2:,}", f"0 to {own('base'):,}"), "means over seeds"
