"""The views of a store, from stages committed by the test: results, paired tests, the report."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusiondistill import report
from fusiondistill.checkpoints import CheckpointError, new_attempt
from fusiondistill.report.words import MISSING
from fusiondistill.statistics import holm, sign_flip_tests
from fusiondistill_runner import runner
from fusiondistill_runner.driving.prepared import prepare
from fusiondistill_runner.planning.levels import every
from fusiondistill_runner.planning.specs import SearchSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage import noted_plans
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views import comparisons, results, searches
from running import TINY
from shelf import LABELS, PLAN, Shelf, drawn


def test_pieces_of_a_degradation_make_one_cell_and_missing_ones_leave_it_missing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, levels={"blur": [0, 4], "c-fog": [1, 2]})
    first, second = drawn(2, 0.8, 0), drawn(1, 0.3, 1)
    shelf.piece("base", 0, "blur", first, (0, 2), nll=[0.5, 1.0], ece=[0.1, 0.2])
    shelf.piece("base", 0, "blur", second, (4,), nll=[2.0], ece=[0.3])
    shelf.piece("fusing", 0, "blur", first, (0, 2))
    shelf.piece("fusing", 0, "blur", second, (4,), store=False)
    shelf.piece("base", 0, "c-fog", first, (1, 2), kind="corruption", nll=[None, None], ece=[None, None])
    table = shelf.write()
    assert table.column_names == [
        "experiment", "method", "model", "seed", "dataset", "protocol", "degradation", "kind", "level", "right", "seen",
        "nll", "ece", "stage", "balanced", "majority", "said", "said_times",
    ]  # fmt: skip
    assert pq.read_table(tmp_path / "results.parquet").equals(table)
    assert table["level"].to_pylist() == [0, 2, 4, 0, 2, 1, 2], "a missing piece is missing rows"
    assert table["kind"].to_pylist() == ["trained"] * 5 + ["corruption"] * 2
    assert table["nll"].to_pylist() == [0.5, 1.0, 2.0, None, None, None, None]
    assert table["right"].to_pylist()[:3] == [*first.sum(1), *second.sum(1)]
    plan = results.planned_table([shelf.plan], table).to_pylist()
    assert [(row["method"], row["degradation"], row["first"], row["last"], row["complete"]) for row in plan] == [
        ("base", "blur", 0, 4, True), ("fusing", "blur", 0, 4, False), ("base", "c-fog", 1, 2, True),
    ]  # fmt: skip
    a, b, c = (100 * part.mean() for part in (first[0], first[1], second[0]))
    lines = results.table_lines(shelf.store, table)
    mean = (a + (a + b) / 2 + b + (b + c) / 2 + c) / 5
    assert [line.split()[:2] for line in lines if line.startswith(("Base", "Fusing"))][:2] == [
        ["Base", f"{mean:.1f}"], ["Fusing", MISSING],
    ]  # fmt: skip
    assert any("every 2nd level measured, the rest interpolated" in line for line in lines)


def test_pairs_are_tested_on_images_averaged_over_levels_seeds_and_degradations(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    expected: dict[str, list[Any]] = {}
    for i, (method, rate) in enumerate((("base", 0.3), ("oracle", 0.9), ("fusing", 0.2), ("expert-blur", 0.9))):
        for seed in (0, 1):
            blur, noise = drawn(3, rate, 10 * i + seed), drawn(2, rate, 100 + 10 * i + seed)
            shelf.piece(method, seed, "blur", blur[:2], (0, 10))
            shelf.piece(method, seed, "blur", blur[2:], (20,))
            shelf.piece(method, seed, "noise", noise, (0, 25))
            shelf.piece(method, seed, "haze", drawn(1, 0.5, i), (3,), kind="unseen")
            expected.setdefault(method, []).append((blur.mean(0) + noise.mean(0)) / 2)
    shelf.write()
    pairs = shelf.pairs()
    assert set(pairs) == set(itertools.combinations(("base", "oracle", "fusing"), 2)), "no single experts"
    p_values = []
    for (a, b), row in pairs.items():
        by_seed = [100 * (x - y) for x, y in zip(expected[a], expected[b], strict=True)]
        difference = np.mean(by_seed, axis=0)
        assert row["difference"] == pytest.approx(difference.mean())
        assert row["low"] < row["difference"] < row["high"]
        spread = 1.96 * difference.std() / np.sqrt(len(LABELS))
        assert (row["low"], row["high"]) == pytest.approx(
            (difference.mean() - spread, difference.mean() + spread), abs=0.1 * spread
        )
        means = [d.mean() for d in by_seed]
        assert row["seed_half"] == pytest.approx(12.706204736 * np.std(means, ddof=1) / np.sqrt(2))
        assert (row["images"], row["seeds"]) == (60, 2)
        (single,) = sign_flip_tests([difference], seed=5)
        assert row["p"] == pytest.approx(single, abs=0.02)
        p_values.append(row["p"])
    assert [row["p_holm"] for row in pairs.values()] == holm(p_values)
    assert pairs["base", "oracle"]["p_holm"] < 0.001 < 0.05 < pairs["base", "fusing"]["p_holm"]


def test_rows_that_are_the_same_stages_are_no_pair_and_count_once(tmp_path: Path) -> None:
    """Two rows share their stages: three rows, two networks, one test, and two of the three pairs have its result."""
    shelf = Shelf(tmp_path)
    for method, rate in (("base", 0.5), ("fusing", 0.7)):
        for seed in (0, 1):
            shelf.piece(method, seed, "blur", drawn(2, rate, seed), (0, 10))
    same = [{**row, "method": "a-copy"} for row in shelf.plan["rows"] if row["method"] == "base"]
    shelf.plan["rows"] += same
    table = shelf.write()
    pairs = shelf.pairs()
    assert set(pairs) == {("base", "fusing"), ("fusing", "a-copy")}
    first, turned = pairs["base", "fusing"], pairs["fusing", "a-copy"]
    assert first["p_holm"] == first["p"] == turned["p_holm"] and first["difference"] == -turned["difference"]
    assert (first["low"], first["high"]) == (-turned["high"], -turned["low"])
    text = Path(results.write_report(shelf.store, table)).read_text()
    assert "rows that are the very same networks count once, which leaves 1" in text


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("step", [1, 5])
def test_the_paired_difference_is_that_of_the_tables_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: tuple[int, ...], step: int
) -> None:
    monkeypatch.setattr(comparisons, "RESAMPLES", 200)
    spans = {"blur": range(23), "noise": range(3, 12)}
    shelf = Shelf(tmp_path, levels={name: [of[0], of[-1]] for name, of in spans.items()})
    for i, (method, seed) in enumerate(itertools.product(("base", "fusing", "vanilla"), seeds)):
        for name, of in spans.items():
            levels = every(of, step)
            falling = np.linspace(1.0, 0.2 + 0.1 * (i % 3), len(levels))[:, None]
            right = np.random.default_rng([i, len(of)]).random((len(levels), len(LABELS))) < falling
            half = len(levels) // 2
            shelf.piece(method, seed, name, right[:half], levels[:half])
            shelf.piece(method, seed, name, right[half:], levels[half:])
    table = shelf.write()
    (group,) = report.summarise(table, planned=results.planned_table([shelf.plan], table))
    averages = {row.method: row.average.interval for row in group.rows}
    assert group.interpolated("blur") == group.interpolated("noise") == (step == 5)
    assert len(shelf.pairs()) == 3
    for (a, b), row in shelf.pairs().items():
        ours, theirs = averages[a], averages[b]
        assert ours and theirs and row["seeds"] == ours.n == len(seeds)
        assert row["difference"] == pytest.approx(ours.mean - theirs.mean, abs=1e-9)


def test_only_seeds_that_both_methods_have_in_full_are_compared(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    right = {(m, s): drawn(2, 0.5, 10 * i + s) for i, m in enumerate("abcd") for s in range(3)}
    for method, seeds in (("a", (0, 1)), ("b", (1, 2)), ("c", (0,)), ("d", (2,))):
        for seed in seeds:
            shelf.piece(method, seed, "blur", right[method, seed], (0, 10))
            lost = (method, seed) == ("b", 2)
            shelf.piece(method, seed, "noise", right[method, seed], (0, 10), store=not lost)
    shelf.write()
    pairs = shelf.pairs()
    assert {key: row["seeds"] for key, row in pairs.items()} == {("a", "b"): 1, ("a", "c"): 1}
    assert all(row["seed_half"] is None for row in pairs.values())
    assert pairs["a", "b"]["difference"] == pytest.approx(100 * (right["a", 1].mean() - right["b", 1].mean()))
    assert pairs["a", "c"]["difference"] == pytest.approx(100 * (right["a", 0].mean() - right["c", 0].mean()))


def test_fewer_levels_and_older_stores_are_left_out_and_the_report_says_so(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.piece("base", 0, "blur", drawn(2, 0.5, 0), (0, 10))
    shelf.piece("fusing", 0, "blur", drawn(1, 0.5, 1), (0,))
    shelf.piece("vanilla", 0, "blur", drawn(2, 0.5, 2), (0, 10), images=False)
    table = shelf.write()
    assert shelf.pairs() == {}
    assert "Not tested in pairs" in " ".join(results.table_lines(shelf.store, table))


def test_methods_on_other_images_are_refused(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.piece("base", 0, "blur", drawn(2, 0.5, 0), (0, 10))
    shelf.piece("fusing", 0, "blur", drawn(2, 0.5, 1), (0, 10), labels=LABELS[::-1])
    with pytest.raises(CheckpointError, match="other test images"):
        shelf.write()


def test_what_has_not_changed_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelves = [Shelf(tmp_path, name) for name in ("one", "two")]
    for i, shelf in enumerate(shelves):
        for j, method in enumerate(("base", "fusing")):
            shelf.piece(method, i, "blur", drawn(2, 0.5, 10 * i + j), (0, 10))
        shelf.write()
    before = pq.read_table(tmp_path / "comparisons.parquet")
    assert before["experiment"].to_pylist() == ["one", "two"]
    read: list[str] = []
    original = Store.read_from

    def noting(self: Store, directory: str, name: str) -> bytes:
        read.append(name)
        return original(self, directory, name)

    monkeypatch.setattr(Store, "read_from", noting)
    shelves[0].write()
    assert "images.parquet" not in read and pq.read_table(tmp_path / "comparisons.parquet").equals(before)
    shelves[1].piece("vanilla", 1, "blur", drawn(2, 0.5, 7), (0, 10))
    shelves[1].write()
    assert read.count("images.parquet") == 3 + 1, "those of the changed experiment, and the new stage's for its classes"
    assert read.count("predictions.parquet") == 1
    assert pq.read_table(tmp_path / "comparisons.parquet").num_rows == 4
    (tmp_path / "comparisons.parquet").write_bytes(b"damaged")
    shelves[1].write()
    assert pq.read_table(tmp_path / "comparisons.parquet").num_rows == 4


def test_the_search_shows_choices_seeds_and_what_mattered(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    template = next(stage for stage in PLAN.stages if isinstance(stage.spec, SearchSpec))
    table = shelf.write()
    for seed, importance in ((0, {"loss.ce": 0.7, "fusion.method": 0.3}), (1, None)):
        search = Stage("search", seed, template.spec)
        shelf.plan["stages"].append({"name": "search", "kind": "search", "seed": seed, "directory": search.directory})
        trials = {"trial": ["0", "1"], "loss.ce": [0.1, 0.5], "epochs": [2, 2], "validation": [0.5, 0.75]}
        if importance:
            trials |= {"stopped": [False, True], "seeds": [3, 3], "fusion.method": ["average", "ties"]}
        else:
            trials |= {"stopped": [False, False]}
        outcome = {
            "trials": 2,
            "stopped": 1,
            **({"importance": importance, "importance_r2": -0.07} if importance else {}),
        }
        facts = {"outcome": outcome, "training_seconds": 60.0}
        shelf.store.commit(search, {"trials.parquet": parquet_bytes(pa.table(trials))}, facts, new_attempt())
    table = shelf.write()
    page = Path(results.write_report(shelf.store, table)).read_text()
    assert "<td>average</td>" in page and "fusion.method" in page and "seeds per trial" in page
    assert "-0.07 (seed 0); near 0 or below, the shares mean nothing" in page and "permutation importance" in page
    assert "4 trials: the distillation stage of at most 2 epochs under other values of loss.ce, fusion.method," in page
    assert "What mattered" in page and page.index("<td>0.700</td>") < page.index("<td>0.300</td>")
    assert any("75.00 %" in line for line in searches.ranking(shelf.store, shelf.plan["stages"][0]["directory"]))


def test_points_of_a_sweep_keep_their_order_and_other_plans_stand_by_name(tmp_path: Path) -> None:
    shelves = [Shelf(tmp_path, name) for name in ("s-10", "s-2", "a", "z", "s-1")]
    for shelf, order in zip(shelves, (2, 1, None, None, 0), strict=True):
        shelf.plan |= {} if order is None else {"sweep": "s", "order": order}
        shelf.piece("base", 0, "blur", drawn(2, 0.5, 0), (0, 10))
        table = shelf.write()
    assert [plan["experiment"] for plan in noted_plans.plans(shelves[0].store)] == ["a", "s-1", "s-2", "s-10", "z"]
    lines = results.table_lines(shelves[0].store, table)
    names = [line.split()[0] for line in lines[: next(i for i, line in enumerate(lines) if " · " in line)] if line]
    assert [name for name in names if name in ("a", "s-1", "s-2", "s-10", "z")] == ["a", "s-1", "s-2", "s-10", "z"]


def test_a_terminal_shows_the_experiments_of_the_call_and_of_many_the_overview(tmp_path: Path) -> None:
    names = [f"e{i}" for i in range(6)]
    for name in names:
        shelf = Shelf(tmp_path, name)
        shelf.plan["config"]["evaluation"]["precision"] = "bf16"
        shelf.piece("base", 0, "blur", drawn(2, 0.5, 0), (0, 10))
        table = shelf.write()
    lines = results.table_lines(shelf.store, table, ["e2"])
    assert lines[0].startswith("e2 · ") and " ".join(lines[:2]).endswith(" · evaluated in bf16")
    assert not any(line.startswith(("Overview", "e1", "e3")) for line in lines)
    few = results.table_lines(shelf.store, table, names[:4])
    assert few[0] == "Overview" and sum(" · data " in line for line in few) == 4
    many = results.table_lines(shelf.store, table, names[:5])
    assert many[0] == "Overview" and not any(" · data " in line for line in many)
    assert [line.split()[0] for line in many if line.startswith("e")] == names[:5]
    assert many[-1] == f"tables: {shelf.store.shown('report', 'table.md')}"
    assert sum(" · data " in line for line in results.table_lines(shelf.store, table)) == 6


@pytest.mark.slow
def test_many_images_take_less_than_a_minute(tmp_path: Path) -> None:
    import time

    shelf = Shelf(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 10_000)
    for i, seed, piece in itertools.product(range(9), range(5), range(26)):
        degradation = ("jpeg", "blur", "noise", "saltpepper")[piece % 4]
        right = rng.random((9, 10_000)) < 0.5 + 0.002 * i
        shelf.piece(f"m{i}", seed, degradation, right, range(9 * piece, 9 * piece + 9), labels=labels)
    start = time.process_time()
    shelf.write()
    seconds = time.process_time() - start
    assert seconds < 60, f"{seconds:.0f} s"
    assert len(shelf.pairs()) == 36 and comparisons.RESAMPLES == 10_000


def test_a_damaged_plan_is_mended_by_running_the_config_again(tmp_path: Path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(TINY.replace("tiny", "mended"))
    ready = prepare(str(config), (), str(tmp_path / "store"))
    runner.note_plan(ready, "first")
    (damaged,) = (tmp_path / "store" / "plans").glob("*.json")
    damaged.write_text('{"experiment": ')
    with pytest.raises(CheckpointError, match="run the config again"):
        noted_plans.plans(ready.store)
    runner.note_plan(ready, "second")
    assert [plan["command"] for plan in noted_plans.plans(ready.store)] == ["second"]
