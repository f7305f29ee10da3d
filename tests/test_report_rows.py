"""The report knows rows by what the plan says of them: under other ids everything reads and looks the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fusiondistill import report
from fusiondistill.report.methods import COLUMNS, Method, described, methods_of
from fusiondistill_runner.views import results
from planned_report import ABOUT, EVERY, plan_of
from planned_report import described as with_methods
from report_tables import METHODS, Page, all_tables, known, rows_of, table
from shelf import Shelf, drawn


def renamed(of: pa.Table, *names: str) -> pa.Table:
    """A table whose methods have other ids, in other letters and another order of the alphabet."""
    for name in names:
        values = [f"zz{value[::-1]}" if value else value for value in of[name].to_pylist()]
        of = of.set_column(of.column_names.index(name), name, pa.array(values, pa.string()))
    return of


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, list[str]]]:
    """The report of the paper's rows under their own ids, and under others."""
    counts = table(rows_of())
    plan = with_methods(plan_of(counts))
    pairs = [
        {**{name: rows_of()[0][name] for name in ("experiment", "dataset", "model", "protocol")}, "a": a, "b": b,
         "images": 40, "seeds": 3, "difference": 2.0, "low": 1.0, "high": 3.0, "p": 0.001, "p_holm": 0.01,
         "seed_half": 1.0}
        for i, a in enumerate(METHODS) for b in METHODS[:i]
    ]  # fmt: skip
    tests = pa.Table.from_pylist(pairs)
    answers, curves = all_tables()["answers"], all_tables()["curves"]
    given: list[dict[str, Any]] = [
        {"planned": plan, "comparisons": tests, "answers": answers, "curves": curves},
        {"planned": renamed(plan, "method", "of", "teachers", "searched"), "comparisons": renamed(tests, "a", "b"),
         "answers": renamed(answers, "method"), "curves": renamed(curves, "stage")},
    ]  # fmt: skip
    found = []
    for i, own in enumerate(given):
        folder = tmp_path_factory.mktemp("report")
        part = counts if i == 0 else renamed(counts, "method")
        samples = all_tables()["samples"]
        page = report.write(folder, part, **own, samples=samples)[0]
        lines = report.table_lines(part, planned=own["planned"], comparisons=own["comparisons"])
        found.append((page, lines))
    return found


def test_a_terminal_shows_the_same(both: Any) -> None:
    (_, lines), (_, others) = both
    assert sorted(lines) == sorted(others) and lines[:20] == others[:20]
    assert any(line.startswith("FusionDistill (searched)") for line in others)


def test_the_page_shows_the_same_and_its_figures_look_the_same(both: Any) -> None:
    texts = [page.read_text() for page, _ in both]
    own, other = (Page(re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)) for text in texts)
    assert (
        own.rows[:20] == other.rows[:20] and own.text["dd"] == other.text["dd"] and own.text["h2"] == other.text["h2"]
    )
    assert sorted(own.rows) == sorted(other.rows)
    assert own.attributes.count(("tr", "class", "ours")) == other.attributes.count(("tr", "class", "ours")) == 2
    assert not re.search("zz[a-z]", texts[1]), "no id is shown"
    figures = [sorted(page.parent.joinpath("figures").glob("*.svg")) for page, _ in both]
    assert [path.name for path in figures[0]] == [path.name for path in figures[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*figures, strict=True))


def test_what_a_plan_says_reaches_the_report_by_way_of_the_planned_table(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.plan["methods"] = [
        {"id": "q", "title": "Quick", "description": "A quick one.", "form": "all", "of": "", "own": "", "start": "b",
         "teachers": "", "told": False, "searched": "", "parameters": 1200, "passes": 1},
        {**ABOUT[0], "id": "b", "title": "Bottom"},
    ]  # fmt: skip
    for method in ("b", "q"):
        shelf.piece(method, 0, "blur", drawn(1, 0.5, 0), (0,))
    counts = shelf.write()
    planned = results.planned_table([shelf.plan], counts)
    assert {name: str(planned.schema.field(name).type) for name in COLUMNS} == COLUMNS
    assert described(planned)["x"] == methods_of(shelf.plan)
    (group,) = report.summarise(counts, planned=planned)
    assert [row.about.name for row in group.rows] == ["Quick", "Bottom"], "in the order of the plan"
    assert known(group.base).method == "b" and group.ours == []
    page = Page(Path(results.write_report(shelf.store, counts)).read_text())
    assert "A quick one; 1,200 parameters, 1 forward pass an image" in page.text["dd"]


def test_a_row_that_no_plan_describes_goes_by_its_id() -> None:
    (group,) = report.summarise(table(rows_of(["mine", "base"], seeds=(0,))))
    assert [(row.about.name, row.about.form) for row in group.rows] == [("mine", ""), ("base", "")]
    assert group.base is None and group.ours == [] and all(row.competes for row in group.rows)


def test_of_many_rows_with_teachers_a_sentence_names_the_first_and_the_last() -> None:
    rows = [{**ABOUT[8], "id": f"d{i}", "title": f"D{i}"} for i in range(6)]
    counts = table(rows_of([*(row["id"] for row in rows), "base"]))
    planned = with_methods(plan_of(counts))
    by_id = methods_of({"methods": [*rows, ABOUT[0]]})
    for name, kind in COLUMNS.items():
        values = [getattr(by_id[method], name) for method in planned["method"].to_pylist()]
        planned = planned.set_column(planned.column_names.index(name), name, pa.array(values, pa.type_for_alias(kind)))
    lines = " ".join(report.table_lines(counts, planned=planned))
    assert re.search(r"over seeds\): D0 [\d.]+ ±[\d.]+ / [\d.]+ %, D5 [\d.]+ ±[\d.]+ / [\d.]+ %, Base", lines)


def test_networks_for_one_degradation_stand_last_whatever_their_place() -> None:
    names = [method.id for method in EVERY.sorted(["expert-blur", "unknown", "base", "expert-jpeg"])]
    assert names == ["base", "unknown", "expert-jpeg", "expert-blur"]
    assert Method("a\x1bb", title="x\ny").name == "x y" and Method("a\x1bb").name == "a\N{REPLACEMENT CHARACTER}b"
