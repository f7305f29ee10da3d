"""What the report says about paired tests: which differences, in which words, and which row is marked."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import planned_report as report
from fusiondistill.report.comparisons import BEST, comparison_grid, short_lines
from fusiondistill.report.groups import Group
from fusiondistill.report.words import MISSING
from report_tables import Page, known, rows_of, table

GROUP = {"experiment": "demo", "dataset": "digits", "model": "cifar_resnet8", "protocol": "standard"}
ROWS = ["base", "oracle", "fusing", "fusiondistill", "expert-blur"]


def pair(a: str, b: str, difference: float, p_holm: float, seed_half: float | None = 0.5) -> dict[str, Any]:
    tested = {"difference": difference, "low": difference - 0.4, "high": difference + 0.3, "p": p_holm / 6}
    return {**GROUP, "a": a, "b": b, "images": 10_000, "seeds": 3, "p_holm": p_holm, "seed_half": seed_half, **tested}


PAIRS = [
    pair("base", "oracle", -5.0, 0.0006),
    pair("base", "fusing", -2.0, 0.0012),
    pair("base", "fusiondistill", -2.5, 0.0006),
    pair("oracle", "fusing", 3.0, 0.0006),
    pair("oracle", "fusiondistill", 2.5, 0.04, None),
    pair("fusing", "fusiondistill", -0.5, 0.05),
]
CHANGED = {"p_holm": 0.049}


def grouped(pairs: list[dict[str, Any]], methods: list[str] = ROWS) -> Group:
    (group,) = report.summarise(table(rows_of(methods)), comparisons=comparisons(pairs))
    return group


def comparisons(pairs: list[dict[str, Any]]) -> pa.Table:
    columns = [*GROUP, "a", "b", "images", "seeds", "difference", "low", "high", "p", "p_holm", "seed_half"]
    return pa.table({name: [row[name] for row in pairs] for name in columns})


def test_a_comparison_looks_the_same_from_both_sides() -> None:
    group = grouped(PAIRS)
    ours, theirs = known(group.comparison("fusing", "base")), known(group.comparison("base", "fusing"))
    assert (ours.difference, ours.low, ours.high) == pytest.approx((2.0, 1.7, 2.4))
    assert (theirs.difference, theirs.low, theirs.high) == pytest.approx((-2.0, -2.4, -1.7))
    assert ours.seen_from("base") == theirs and ours.p_holm == theirs.p_holm
    assert group.comparison("base", "expert-blur") is None


def test_all_pairs_are_listed_the_established_ones_first(tmp_path: Path) -> None:
    grid = known(comparison_grid(grouped(PAIRS)))
    assert [(row[0][0], row[1][0]) for row in grid.rows] == [
        ("Oracle", "Base"), ("Oracle", "Fusing"), ("FusionDistill", "Base"), ("Oracle", "FusionDistill"),
        ("Fusing", "Base"), ("FusionDistill", "Fusing"),
    ]  # fmt: skip
    assert [row[6][0] for row in grid.rows] == ["yes"] * 5 + [""], "0.05 itself is not below 0.05"
    assert [cell for cell, _ in grid.rows[0]] == [
        "Oracle", "Base", "+5.00", "+4.70 to +5.40", "0.0001", "0.0006", "yes", "+5.00 ±0.50", "3",
    ]  # fmt: skip
    assert grid.rows[3][7][0] == MISSING
    assert "another draw of test images" in grid.note and "It does not say that other training seeds" in grid.note
    results = table(rows_of(ROWS))
    page = Page(report.write(tmp_path, results, comparisons=comparisons(PAIRS))[0].read_text())
    assert [cell for cell, _ in grid.rows[0]] in page.rows
    text = (tmp_path / "table.md").read_text()
    assert "| FusionDistill | Fusing | +0.50 | +0.20 to +0.90 |" in text
    short = "FusionDistill above Base by 2.50 (2.20 to 2.90)"
    assert f"\n\n- {short}" in text and short in page.text["p"]


def test_the_terminal_says_it_shortly() -> None:
    lines = short_lines(grouped(PAIRS))
    assert "For other training seeds see" in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "FusionDistill above Base by 2.50 (2.20 to 2.90), p 0.0006, seeds ±0.50",
        "FusionDistill below Oracle by 2.50 (2.10 to 2.80), p 0.0400, one seed",
        "Cannot be told apart on these images: FusionDistill from Fusing.",
    ]
    wide = short_lines(grouped([{**PAIRS[2], "seed_half": 2.5}]))
    assert wide[1].endswith("p 0.0006, seeds ±2.50: open")
    searched = [
        pair("fusiondistill", "fusiondistill-searched", 0.1, 1.0),
        pair("fusing", "fusiondistill-searched", 0.1, 1.0),
        pair("base", "fusiondistill-searched", 0.1, 1.0),
    ]
    lines = short_lines(grouped(PAIRS + searched, [*ROWS, "fusiondistill-searched"]))
    assert lines[-1] == (
        "Cannot be told apart on these images: FusionDistill from Fusing and FusionDistill (searched); "
        "FusionDistill (searched) from Base and Fusing."
    )
    assert short_lines(grouped([{**p, "p_holm": 1.0} for p in PAIRS]))[0].startswith("No difference of our rows")


def test_nothing_is_claimed_where_nothing_was_tested(tmp_path: Path) -> None:
    results = table(rows_of(ROWS))
    assert "Not tested in pairs" not in " ".join(report.table_lines(results)), "not asked for"
    none: Any = comparisons(PAIRS).slice(0, 0)
    assert "Not tested in pairs" in " ".join(report.table_lines(results, comparisons=none))
    page = Page(report.write(tmp_path, results, comparisons=none)[0].read_text())
    assert "Not tested in pairs" in page.text["p"] and BEST not in page.text["small"]
    other = [{**p, "experiment": "another"} for p in PAIRS]
    assert grouped(other).comparisons == ()


def test_a_single_row_is_not_said_to_lack_tests(tmp_path: Path) -> None:
    none: Any = comparisons(PAIRS).slice(0, 0)
    for methods in (["base"], ["base", "expert-blur"]):
        results = table(rows_of(methods))
        assert "Not tested in pairs" not in " ".join(report.table_lines(results, comparisons=none))
        report.write(tmp_path, results, comparisons=none)
        assert "Not tested in pairs" not in "".join(file.read_text() for file in tmp_path.glob("*.*"))


def test_no_number_is_a_negative_zero(tmp_path: Path) -> None:
    pairs = [{**PAIRS[5], "difference": -0.001, "low": -0.004, "high": 2.67}, {**PAIRS[2], "high": 0.001}]
    results = table(rows_of(ROWS))
    lines = report.table_lines(results, comparisons=comparisons(pairs))
    report.write(tmp_path, results, comparisons=comparisons(pairs))
    text = " ".join([*lines, *(file.read_text() for file in tmp_path.glob("*.*"))])
    assert "+0.00" in text and "-0.00" not in text


def test_the_correction_is_said_to_be_that_of_one_table() -> None:
    group = grouped(PAIRS)
    assert "corrected for all pairs of this table" in short_lines(group)[0]
    assert "corrected for all 6 pairs of this table" in known(comparison_grid(group)).note


@pytest.mark.parametrize(
    ("changes", "best"),
    [
        ({5: CHANGED}, "fusiondistill"),  # told rows and single experts do not compete
        ({}, None),  # not established against fusing
        ({5: {**CHANGED, "difference": 0.5}, 1: {"difference": 2.0}}, None),  # all in a circle
        ({5: {**CHANGED, "difference": 0.5}}, "fusing"),
        ({5: {**CHANGED, "b": "vanilla"}}, None),  # fusing and fusiondistill share no seed
    ],
)
def test_the_best_average_is_marked_only_if_it_is_better_than_every_other(
    changes: dict[int, dict[str, Any]], best: str | None
) -> None:
    pairs = [{**p, **changes.get(i, {})} for i, p in enumerate(PAIRS)]
    group = grouped(pairs)
    assert group.best == best
    lines = report.table_lines(table(rows_of(ROWS)), comparisons=comparisons(pairs))
    marked = [line.split()[0] for line in lines if re.search(rf"±\d+\.\d {BEST}", line)]
    assert marked == {"fusiondistill": ["FusionDistill"], "fusing": ["Fusing"], None: []}[best]
    assert (f"{BEST}: better than every other row" in " ".join(lines)) == (best is not None)


def test_no_mark_as_long_as_a_row_is_not_evaluated() -> None:
    pairs = [{**p, **(CHANGED if i == 5 else {})} for i, p in enumerate(PAIRS)]
    assert grouped(pairs, [*ROWS, "vanilla"]).best is None
    assert grouped(pairs).best == "fusiondistill"
