"""Interpolated levels, kinds of degradations, figures beyond accuracy, several groups: against numbers by hand."""

import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import planned_report as report
from fusiondistill.report.beyond_accuracy import beyond_grid, corruption_error, mean_corruption_error
from fusiondistill.report.groups import Cell, Group
from fusiondistill.report.tables import caption, column_title, overview_grid, seeds_grid
from fusiondistill.report.words import MISSING, degradation_title
from report_tables import HOSTILE, METHODS, Page, known, rows_of, table

GROUP = {"experiment": "demo", "model": "cifar_resnet8", "dataset": "digits", "protocol": "standard"}


def counted(
    method: str, degradation: str, rights: dict[int, int], *, seed: int = 0, kind: str = "trained", **more: Any
) -> list[dict[str, Any]]:
    """Counts of 10 images by level."""
    common = {**GROUP, "method": method, "seed": seed, "degradation": degradation, "kind": kind, "seen": 10, **more}
    return [{**common, "level": level, "right": right} for level, right in rights.items()]


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def planned(*cells: tuple[str, int, str], span: tuple[int, int] | None = None, **more: Any) -> pa.Table:
    first, last = span or (None, None)
    rows = [
        {**GROUP, "method": m, "seed": s, "degradation": d, "kind": "trained", "complete": True, **more}
        for m, s, d in cells
    ]
    whole = as_table(rows)
    for name, value in (("first", first), ("last", last)):
        whole = whole.append_column(name, pa.array([value] * len(rows), pa.int64()))
    return whole


def one(results: pa.Table, **more: Any) -> Group:
    (group,) = report.summarise(results, **more)
    return group


def mean_of(group: Group, method: str, column: str) -> float:
    return known(known(group.row(method)).cell(column).interval).mean


def test_levels_that_were_not_measured_are_interpolated_and_marked(tmp_path: Path) -> None:
    results = as_table(counted("base", "blur", {0: 8, 2: 4, 4: 6, 5: 1}))
    plan = planned(("base", 0, "blur"), span=(0, 6))
    group = one(results, planned=plan)
    # 80, (60), 40, (50), 60, 10, and beyond the last measured one the nearest: 10.
    assert mean_of(group, "base", "blur") == pytest.approx((80 + 60 + 40 + 50 + 60 + 10 + 10) / 7)
    assert mean_of(one(results), "base", "blur") == pytest.approx((80 + 40 + 60 + 10) / 4), "no plan, no other levels"
    assert known(group.row("base")).curves["blur"] == {0: [80, 40, 60, 10]}, "figures show what was measured"
    assert column_title(group, "blur") == "Blur*" and column_title(group, "avg") == "Avg*"
    said = "* Blur: every 2nd level and the last measured, the rest interpolated"
    assert said in caption(group) and "Blur 4 of 7" in caption(group)
    lines = report.table_lines(results, planned=plan)
    assert said in " ".join(lines) and any(line.split() == ["Blur*", "Avg*"] for line in lines)
    page = Page(report.write(tmp_path, results, planned=plan)[0].read_text())
    assert ["", "Blur*", "Avg*", "Clean"] in page.rows and said in page.text["p"]
    assert "Dots are measured levels." in page.text["figcaption"]
    assert "| Blur\\* | Avg\\* |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ((1, 6, 11), "every 5th level measured"),
        ((0, 1, 7), "3 levels measured"),
        ((3,), "one level measured"),
        ((0, 3, 6, 8), "every 3rd level and the last measured"),
    ],
)
def test_how_the_levels_were_chosen_is_said(levels: tuple[int, ...], words: str) -> None:
    group = one(
        as_table(counted("base", "blur", dict.fromkeys(levels, 5))), planned=planned(("base", 0, "blur"), span=(0, 50))
    )
    assert words in caption(group) and mean_of(group, "base", "blur") == pytest.approx(50)


def test_measured_in_full_is_not_marked() -> None:
    rows = counted("base", "blur", {0: 8, 1: 4})
    group = one(as_table(rows), planned=planned(("base", 0, "blur"), span=(0, 1)))
    assert column_title(group, "blur") == "Blur" and "interpolated" not in caption(group)
    assert mean_of(group, "base", "blur") == pytest.approx(60)


def test_a_cell_is_missing_until_all_its_pieces_are_there_even_if_no_row_has_them() -> None:
    results = as_table(counted("base", "blur", {0: 8, 2: 4}) + counted("fusing", "blur", {0: 8, 2: 4}))
    cells = (("base", 0, "blur"), ("fusing", 0, "blur"))
    half = planned(*cells, span=(0, 4), complete=False)
    assert known(one(results, planned=half).row("base")).cells["blur"].interval is None
    assert known(one(results, planned=planned(*cells, span=(0, 4))).row("base")).cells["blur"].interval is not None


def test_rows_and_columns_of_a_plan_belong_to_their_own_experiment() -> None:
    other = {"experiment": "other"}
    plans = pa.concat_tables([planned(("fusing", 0, "noise")), planned(("base", 0, "blur"), **other)])
    results = as_table(counted("base", "noise", {0: 1}))
    demo, unstarted = report.summarise(results, planned=plans)
    assert [row.method for row in demo.rows] == ["base", "fusing"] and demo.degradations == ("noise",)
    assert [row.method for row in unstarted.rows] == ["base"] and unstarted.degradations == ("blur",)
    assert "Nothing is evaluated yet" in caption(unstarted)
    lines = report.table_lines(results, planned=plans)
    assert lines[0] == "Overview" and [line.split() for line in lines if line.startswith("other  ")] == [
        ["other", MISSING]
    ]


def test_another_precision_than_fp32_is_in_the_title() -> None:
    results = as_table(counted("base", "blur", {0: 8}) + counted("base", "blur", {0: 8}, experiment="low"))
    plans = [planned(("base", 0, "blur"), precision="fp32"), planned(("base", 0, "blur"), precision="bf16")]
    tables = [report.table_lines(results.slice(0, 1), planned=plan) for plan in plans]
    usual, low = (
        " ".join(lines[: next(i for i, line in enumerate(lines) if line.startswith("Acc"))]) for lines in tables
    )
    assert "fp32" not in usual and low == f"{usual} · evaluated in bf16"
    plans[1] = planned(("base", 0, "blur"), precision="bf16", experiment="low")
    lines = report.table_lines(results, planned=pa.concat_tables(plans))
    assert [line.split("  ")[0] for line in lines if line.startswith(("demo · ev", "low · ev"))] == [
        "demo · evaluated in fp32", "low · evaluated in bf16",
    ]  # fmt: skip


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = rows_of() + rows_of(levels={"haze": (0, 3)})
    for row in rows:
        row.update(kind="unseen" if row["degradation"] == "haze" else "trained", nll=row["right"] / 7, ece=0.01)
    first = one(as_table(rows))
    random.Random(3).shuffle(rows)
    assert one(as_table(rows)) == first
    assert first.others[0].degradations == ("haze",)


def test_other_kinds_have_tables_and_averages_of_their_own(tmp_path: Path) -> None:
    rows = []
    for method, right in (("base", 6), ("fusing", 8)):
        rows += counted(method, "blur", {0: right})
        rows += counted(method, "motion_blur", {1: right - 2}, kind="unseen")
        rows += counted(method, "c-fog", dict.fromkeys(range(1, 6), right - 3), kind="corruption")
        rows += counted(method, "c-jpeg_compression", dict.fromkeys(range(1, 6), right - 5), kind="corruption")
    rows += counted("expert-blur", "blur", {0: 9})
    results = as_table(rows)
    group = one(results)
    assert group.degradations == ("blur",) and mean_of(group, "base", "avg") == pytest.approx(60)
    corruption, unseen = group.others
    assert corruption.kind == "corruption" and unseen.kind == "unseen"
    assert mean_of(corruption, "base", "avg") == pytest.approx((30 + 10) / 2)
    assert mean_of(unseen, "fusing", "avg") == pytest.approx(60)
    assert [row.method for row in unseen.rows] == ["base", "fusing"], "the expert has nothing there"
    assert degradation_title("c-fog") == "Fog (published set)" and degradation_title("motion_blur") == "Motion blur"
    lines = report.table_lines(results)
    assert "Published corruption set" in lines and "Unseen degradations" in lines
    assert any(line.split() == ["Fog", "Jpeg", "compression", "Avg"] for line in lines)
    page = Page(report.write(tmp_path, results)[0].read_text())
    assert ["Base", "30.0", "10.0", "20.0"] in page.rows
    assert "Fog (published set)" in page.text["h4"] and "Motion blur" in page.text["h4"]


def test_corruption_errors_are_relative_to_the_base_of_the_same_seed() -> None:
    rows = counted("base", "blur", {0: 8, 1: 4}) + counted("base", "noise", {0: 9})
    rows += counted("fusing", "blur", {0: 9, 1: 6}) + counted("fusing", "noise", {0: 7})
    rows += counted("fusing", "blur", {0: 10, 1: 10}, seed=1)  # no base of that seed
    group = one(as_table(rows))
    fusing = known(group.row("fusing"))
    # Errors over the levels: blur (1 + 4) / (2 + 6), noise 3 / 1.
    assert corruption_error(group, fusing, "blur").by_seed == {0: pytest.approx(62.5)}
    assert corruption_error(group, fusing, "noise").by_seed == {0: pytest.approx(300)}
    assert mean_corruption_error(group, fusing).by_seed == {0: pytest.approx(181.25)}
    assert known(mean_corruption_error(group, known(group.row("base"))).interval).mean == 100
    grid = known(beyond_grid(group))
    assert grid.heading == ("", "clean, %", "CE Blur", "CE Noise", "mCE"), "no NLL and ECE where no row has them"
    assert grid.rows[1] == (("Fusing", ""), ("80.0", "[1]"), ("62.5", "[1]"), ("300.0", "[1]"), ("181.2", "[1]"))


def test_a_base_without_errors_has_no_ratio() -> None:
    rows = counted("base", "haze", {1: 10}) + counted("fusing", "haze", {1: 9})
    group = one(as_table(rows))
    assert mean_corruption_error(group, known(group.row("fusing"))).by_seed == {}
    assert beyond_grid(group) is None, "nothing to say: no table"


def test_likelihood_and_calibration_are_means_over_levels_degradations_and_seeds(tmp_path: Path) -> None:
    rows = []
    for seed in (0, 1):
        rows += counted("base", "blur", {0: 8}, seed=seed, nll=1.0 + seed, ece=0.10)
        rows += counted("base", "blur", {2: 8}, seed=seed, nll=3.0 + seed, ece=0.20)
        rows += counted("base", "noise", {1: 8}, seed=seed, nll=5.0 + seed, ece=0.35)
        rows += counted("ensemble", "blur", {0: 9, 2: 9}, seed=seed) + counted("ensemble", "noise", {1: 9}, seed=seed)
    group = one(as_table(rows))
    base = known(group.row("base"))
    assert base.nll.by_seed == {0: pytest.approx((2 + 5) / 2), 1: pytest.approx((3 + 6) / 2)}
    assert base.ece.by_seed[0] == pytest.approx(100 * (0.15 + 0.35) / 2)
    assert known(group.row("ensemble")).nll.by_seed == {}
    grid = known(beyond_grid(group, brief=True))
    assert grid.heading == ("", "clean, %", "NLL, nats", "ECE, %", "mCE")
    assert grid.rows[0][2:4] == (("4.000", "±6.353"), ("25.0", "±0.0"))
    assert grid.rows[1][2:4] == ((MISSING, ""), (MISSING, "")) and "its networks vote" in grid.note
    assert "its networks vote" in " ".join(report.table_lines(as_table(rows)))
    interpolated = one(as_table(rows), planned=planned(("base", 0, "blur"), span=(0, 4)))
    assert known(interpolated.row("base")).nll.by_seed[0] == pytest.approx(((1 + 2 + 3 + 3 + 3) / 5 + 5) / 2)
    page = Page(report.write(tmp_path, as_table(rows))[0].read_text())
    assert any(row[0] == "Base" and "4.000 ±6.353" in row for row in page.rows)


def test_one_level_without_likelihood_leaves_the_cell_without() -> None:
    rows = counted("base", "blur", {0: 8}, nll=1.0, ece=0.1) + counted("base", "blur", {1: 8})
    base = known(one(as_table(rows)).row("base"))
    assert base.nll == Cell({}) and base.ece == Cell({}) and base.average.by_seed == {0: 80}


def test_mean_deviation_and_interval_over_seeds_are_all_there() -> None:
    rows = [r for seed, right in enumerate((5, 6, 7)) for r in counted("base", "blur", {0: right}, seed=seed)]
    rows += counted("fusing", "blur", {0: 9}, seed=1)
    group = one(as_table(rows))
    grid = known(seeds_grid(group))
    # t(2, 0.975) = 4.3027; half = 4.3027 * 10 / sqrt(3) = 24.84
    assert grid.rows[0][1] == ("60.00", "s 10.00 (n 3), 35.16 .. 84.84")
    assert grid.rows[1][1] == ("90.00", "(n 1)")
    assert seeds_grid(one(as_table(counted("base", "blur", {0: 5})))) is None


def test_several_groups_open_with_an_overview(tmp_path: Path) -> None:
    small = [{**row, "model": "cifar_resnet14"} for row in counted("base", "blur", {0: 7})]
    results = as_table(counted("base", "blur", {0: 6}) + counted("fusing", "blur", {0: 8}) + small)
    grid = known(overview_grid(report.summarise(results)))
    assert grid.heading == ("", "Base", "Fusing")
    assert [[cell[0] for cell in row] for row in grid.rows] == [
        ["network cifar_resnet8", "60.0", "80.0"],
        ["network cifar_resnet14", "70.0", ""],
    ]
    assert report.table_lines(results)[0] == "Overview"
    page = Page(report.write(tmp_path, results)[0].read_text())
    assert ["network cifar_resnet14", "70.0", ""] in page.rows
    assert ("a", "href", "#table-2") in page.attributes
    assert (tmp_path / "table.md").read_text().startswith("# Results\n\n## Overview\n\n|")
    assert overview_grid(report.summarise(results.slice(0, 1))) is None


def test_a_wide_table_is_cut_into_several_for_a_terminal() -> None:
    rows = [r for i in range(19) for r in counted("base", f"c-corruption_{i}", {1: 5}, kind="corruption")]
    lines = report.table_lines(as_table(counted("base", "blur", {0: 5}) + rows))
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    assert all(f"Corruption {i}" in text for i in range(19)) and len(re.findall(r"^Base ", "\n".join(lines), re.M)) >= 4


def test_hostile_kinds_and_methods_stay_text(tmp_path: Path) -> None:
    name = HOSTILE.replace("\ud800", "")
    rows = counted(name, name, {0: 5}, kind=name, nll=1.0, ece=0.1) + counted("base", "blur", {0: 5}, experiment=name)
    rows += counted(name, f"c-{name}", {0: 5}, kind="corruption") + rows_of(METHODS[:1], seeds=(0, 1), experiment="b")
    pair = {"a": name, "b": "base", "images": 9, "seeds": 1, "difference": 1.0, "low": 0.5, "high": 2.0, "p": 0.001}
    tests = as_table([{**GROUP, **pair, "p_holm": 0.01, "seed_half": None}, {**GROUP, **pair, "p_holm": 0.01,
                      "seed_half": 0.5, "experiment": name}])  # fmt: skip
    results = as_table(rows)
    paths = report.write(tmp_path, results, comparisons=tests)
    text = paths[0].read_text()
    assert Page(text).tags.count("script") == 2 and text.count("<script") == 2 and "\x1b" not in text
    assert "<script" not in paths[1].read_text() and "\x1b" not in paths[1].read_text()
    assert all(line.isprintable() for line in report.table_lines(results, comparisons=tests))
    assert report.summarise(table(rows_of(["base"])))[0].comparisons is None
