"""Paired tests of one row between the points of a sweep, and what the report says of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fusiondistill import report
from fusiondistill.report.comparisons import sweep_grids, sweep_lines
from fusiondistill.statistics import holm
from fusiondistill_runner.storage import noted_plans
from fusiondistill_runner.views import comparisons, results, sweep_comparisons
from planned_report import ABOUT, EVERY
from shelf import LABELS, Shelf, drawn

METHODS = ("base", "fusing", "fusiondistill")


def point(
    path: Path, name: str, order: int, rate: float, *, methods: Any = METHODS, levels: Any = (0, 5, 7), **more: Any
) -> Shelf:
    shelf = Shelf(path, f"s.{name}", levels={"blur": [0, 7]})
    shelf.plan |= {"sweep": "s", "order": order}
    for i, method in enumerate(methods):
        for seed in (0, 1):
            right = drawn(len(levels), rate, 100 * order + 10 * i + seed)
            shelf.plan["config"]["evaluation"]["every"] = 5
            shelf.piece(method, seed, "blur", right, levels, **{"data": {"train_images": 100 + order}, **more})
    return shelf


def test_the_same_row_is_tested_between_points_as_their_tables_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparisons, "RESAMPLES", 1000)
    shelves = [point(tmp_path, f"p{i}", i, rate) for i, rate in enumerate((0.9, 0.3, 0.85))]
    shelves.append(point(tmp_path, "same", 2, 0.85))  # rests on the very stages of p2
    shelves[-1].plan["rows"] = [row for row in shelves[-1].plan["rows"] if row["method"] == "fusing"]
    other = {"fingerprint": "another"}
    shelves.append(point(tmp_path, "q", 3, 0.9, data=other, labels=LABELS[::-1], methods=("fusing",)))
    shelves.append(point(tmp_path, "r", 4, 0.9, levels=(0, 7), methods=("fusing",)))
    for shelf in shelves:
        table = shelf.write()
    rows = [row for row in pq.read_table(tmp_path / "comparisons.parquet").to_pylist() if row["points"]]
    alike = list(itertools.combinations(("p0", "p1", "p2"), 2))
    expected = {("fusiondistill", *pair) for pair in alike} | {("fusing", *pair) for pair in alike}
    found = {(row["a"].split()[1], row["a"].split()[0], row["b"].split()[0]) for row in rows}
    assert found == expected and len(rows) == 6, (
        "not the base, other images, other levels, or the very same stages again"
    )
    assert all(row["experiment"] == "s" and row["seeds"] == 2 for row in rows)
    assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows])
    plans = noted_plans.plans(shelves[0].store)
    groups = {g.experiment: g for g in report.summarise(table, planned=results.planned_table(plans, table))}
    for row in rows:
        (a, method), (b, _) = row["a"].split(), row["b"].split()
        means = [np.mean(list(groups[f"s.{name}"].row(method).average.by_seed.values())) for name in (a, b)]
        assert row["difference"] == pytest.approx(means[0] - means[1], abs=1e-9)
    before = pq.read_table(tmp_path / "comparisons.parquet")
    monkeypatch.setattr(comparisons, "correctness", None)
    monkeypatch.setattr(sweep_comparisons, "correctness", None)
    shelves[0].write()
    assert pq.read_table(tmp_path / "comparisons.parquet").equals(before), "nothing is computed again"

    lines = results.table_lines(shelves[0].store, table, ["s.p0", "s.p1"])
    at = next(
        i
        for i, line in enumerate(lines)
        if line.startswith("Between the points of s (digits, cifar_resnet56, protocol standard): ")
    )
    assert lines[at + 1].startswith("  Fus") and " at p0 above " in lines[at + 1]
    assert not any(line.startswith("Between") for line in results.table_lines(shelves[0].store, table, ["x"]))
    page = Path(results.write_report(shelves[0].store, table))
    for text in (page.read_text(), (page.parent / "table.md").read_text()):
        assert text.count("Between the points of s") >= 1 and "FusionDistill at p0" in text


def test_a_sweep_of_many_points_has_no_more_pairs_than_can_be_established(tmp_path: Path) -> None:
    shelves = [point(tmp_path, f"p{i}", i, 0.5, methods=("fusiondistill", "fusing", "vanilla")) for i in range(20)]
    (sweep,) = sweep_comparisons.sweeps(shelves[0].store, [json.loads(json.dumps(shelf.plan)) for shelf in shelves])
    assert len(sweep.pairs) == 2 * 190 and {pair[0].split()[1] for pair in sweep.pairs} == {"fusiondistill", "fusing"}


def test_the_terminal_has_twelve_lines_for_the_points_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "RESAMPLES", 500)
    for i in range(6):
        point(tmp_path, f"p{i}", i, 0.95 if i == 5 else 0.5, methods=("fusing",)).write()
    lines = sweep_lines(pq.read_table(tmp_path / "comparisons.parquet"), EVERY)
    assert len(lines) == 12 and lines[0].startswith("Between the points of s (digits") and ": 5 of 15 " in lines[0]
    assert all(" at p5 above " in line for line in lines[1:6]) and lines[-1] == "  and 5 more in table.md"


def test_each_correction_counts_the_pairs_on_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep over data sets and one over protocols hold several families, each corrected for itself."""
    monkeypatch.setattr(comparisons, "RESAMPLES", 500)
    for i, (name, dataset, protocol) in enumerate(
        (("a0", "digits", "standard"), ("a1", "digits", "standard"), ("a2", "digits", "standard"),
         ("b0", "cifar10", "standard"), ("b1", "cifar10", "standard"), ("c0", "digits", "paper"),
         ("c1", "digits", "paper"))
    ):  # fmt: skip
        data = {"name": dataset, "train_images": i}
        shelf = point(tmp_path, name, i, 0.5, methods=("fusing",), data=data, protocol=protocol)
        shelf.plan["config"] |= {"data": {**shelf.plan["config"]["data"], "name": dataset}, "protocol": protocol}
        table = shelf.write()
    grids = sweep_grids(pq.read_table(tmp_path / "comparisons.parquet"), EVERY)
    found = {grid.title.removeprefix("Between the points of s "): len(grid.rows) for grid in grids}
    assert found == {
        "(digits, cifar_resnet56, protocol standard)": 3, "(cifar10, cifar_resnet56, protocol standard)": 1,
        "(digits, cifar_resnet56, protocol paper)": 1,
    }  # fmt: skip
    assert "corrected for these 3 pairs" in grids[0].note and "corrected for this pair" in grids[1].note
    text = Path(results.write_report(shelf.store, table)).read_text()
    assert all(f"Between the points of s {title}" in text for title in found)


def test_which_rows_are_compared_is_what_they_are_not_what_they_are_called() -> None:
    expected = ["fusiondistill", "fusiondistill-searched", "fusing", "modelsoups", "vanilla", "scratch"]
    assert sweep_comparisons.compared([{"methods": ABOUT}]) == expected
    renamed = [{**row, "id": f"x-{row['id']}"} for row in ABOUT]
    assert sweep_comparisons.compared([{"methods": renamed}]) == [f"x-{name}" for name in expected]
    halves = [{"methods": ABOUT[:7]}, {"methods": [{**row, "order": 7 + i} for i, row in enumerate(ABOUT[7:])]}]
    assert sweep_comparisons.compared(halves) == expected, "rows of any of the points"
    assert sweep_comparisons.compared([{}]) == []


def test_points_that_share_stages_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four points, two networks: one comparison, so Holm corrects for one."""
    monkeypatch.setattr(comparisons, "RESAMPLES", 500)
    for name, order in (("p0", 0), ("p1", 1), ("p2", 0), ("p3", 1)):
        shelf = point(tmp_path, name, order, 0.9 - 0.2 * order, methods=("fusing",))
        shelf.write()
    (row,) = pq.read_table(tmp_path / "comparisons.parquet").to_pylist()
    assert (row["a"], row["b"]) == ("p0 fusing", "p1 fusing") and row["p_holm"] == row["p"]
