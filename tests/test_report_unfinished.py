"""A report of a run that is not over: what is planned and missing, what failed and why, in its own words."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import planned_report as report
from fusiondistill.commits import sealed
from fusiondistill.report.tables import caption
from fusiondistill.report.words import MISSING
from fusiondistill_runner.storage.store import ERROR
from fusiondistill_runner.views import results
from report_tables import HOSTILE, Page, curves_of, rows_of, table
from shelf import Shelf, drawn
from test_report_tables import as_table, counted, one, planned


def said_of(folder: Path, counts: pa.Table, plan: pa.Table) -> dict[str, str]:
    """The lines above the table."""
    text = report.write(folder, counts, planned=plan)[0].read_text()
    opening = text[text.index('<dl class="setup">') : text.index("</dl>")]
    parts = [part.split("</dt><dd>") for part in opening.split("<dt>")[1:]]
    return {name: value.removesuffix("</dd>") for name, value in parts}


def test_seeds_that_are_still_to_come_are_seeds_of_the_table(tmp_path: Path) -> None:
    cells = [(method, seed, "blur") for method in ("base", "fusing") for seed in (0, 1, 2)]
    begun = as_table(counted("base", "blur", {0: 8}) + counted("fusing", "blur", {0: 7}))
    plan = pa.concat_tables([planned(*cells[::3]), planned(*cells[1:3], *cells[4:], complete=False)])
    said = said_of(tmp_path, begun, plan)
    assert said["Seeds"] == "0, 1, 2" and said["Missing"].startswith("2 of 2 numbers are not evaluated")
    text = caption(one(begun, planned=plan))
    assert "n = 3 seeds" in text and "[n] marks a cell with fewer seeds" in text and "no interval" not in text


def test_before_the_first_evaluation_the_table_is_there_with_dashes(tmp_path: Path) -> None:
    plan = planned(("base", 0, "blur"), ("fusing", 0, "blur"), complete=False)
    page = Page(report.write(tmp_path, table([]), planned=plan)[0].read_text())
    assert "FusionDistill: demo" in page.text["h1"] and ["", "Blur", "Avg"] in page.rows
    assert [row for row in page.rows if row[0] in ("Base", "Fusing")] == [
        ["Base", MISSING, MISSING],
        ["Fusing", MISSING, MISSING],
    ]
    assert "2 of 2 numbers are not evaluated" in page.text["dd"] and "Nothing is evaluated yet" in page.text["p"]
    lines = report.table_lines(table([]), planned=plan)
    assert ["Base", MISSING, MISSING] in [line.split() for line in lines]


def test_only_what_was_planned_can_be_missing(tmp_path: Path) -> None:
    """An expert is evaluated on its own degradation alone where the matrix is not asked for."""
    cells = [("expert-blur", "blur"), ("expert-noise", "noise"), ("base", "blur"), ("base", "noise")]
    counts = as_table([row for method, name in cells for row in counted(method, name, {0: 8})])
    whole = planned(*((method, 0, name) for method, name in cells))
    assert "Missing" not in said_of(tmp_path, counts, whole)
    group = one(counts, planned=whole)
    assert group.missing == (0, 4)


def test_the_other_tables_can_miss_something_too(tmp_path: Path) -> None:
    counts = as_table(counted("base", "blur", {0: 8}))
    plan = pa.concat_tables([planned(("base", 0, "blur")), planned(("base", 0, "haze"), kind="unseen", complete=False)])
    assert said_of(tmp_path, counts, plan)["Missing"].startswith("1 of 2 numbers are not evaluated")


@pytest.fixture
def half_done(tmp_path: Path) -> Shelf:
    """A store with an evaluation, a training with two epochs, one that failed, a search that has not begun."""
    shelf = Shelf(tmp_path)
    shelf.piece("base", 0, "blur", drawn(1, 0.5, 0), (0,))
    for method in ("vanilla", "scratch"):
        shelf.piece(method, 0, "blur", drawn(1, 0.5, 1), (0,), store=False)
    stages = (("scratch", "train"), ("vanilla", "train"), ("search", "search"), ("evaluate-vanilla-blur", "evaluate"),
              ("evaluate-scratch-blur", "evaluate"))  # fmt: skip
    for name, kind in stages:
        shelf.plan["stages"].append({"name": name, "kind": kind, "seed": 0, "directory": f"{name}-01"})
    progress = sealed({"file": "last.pt", "epoch": 2, "sha256": "0"})
    shelf.store.write(progress, "scratch-01", "progress.json")
    shelf.store.write(f"Traceback\n  <b>\nValueError: {WRONG}\n".encode(), "vanilla-01", ERROR)
    shelf.store.write(b"OSError: no room", "evaluate-scratch-blur-01", ERROR)
    return shelf


WRONG = HOSTILE.replace("\ud800", "").replace("\n", " ")


def test_what_failed_and_what_is_under_way_is_on_the_page_with_its_reason(half_done: Shelf) -> None:
    counts = half_done.write()
    text = Path(results.write_report(half_done.store, counts)).read_text()
    page = Page(text)
    rows = {row[0]: row[1:] for row in page.rows if len(row) == 4 and row[1].startswith(("not finished", "failed: "))}
    assert list(rows) == ["Vanilla", "evaluate-scratch-blur", "Scratch", "search"], "failures first"
    assert rows["Scratch"] == ["not finished", "0", "2"] and rows["search"] == ["not finished", "0", MISSING]
    assert rows["evaluate-scratch-blur"][0] == "failed: OSError: no room"
    assert rows["Vanilla"][0].startswith("failed: ValueError: <script>alert('x')</script> & ")
    assert "2 stages failed and 2 stages not finished" in page.text["a"] and ("a", "href", "#unfinished") in (
        page.attributes
    )
    assert text.index("2 stages failed") < text.index("<h2") and text.count("<script") == 2


def test_a_finished_run_says_nothing_of_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.piece("base", 0, "blur", drawn(1, 0.5, 0), (0,))
    assert "unfinished" not in Path(results.write_report(shelf.store, shelf.write())).read_text()


def test_curves_of_trainings_under_way_are_missing_with_a_word(tmp_path: Path) -> None:
    stage: dict[str, Any] = {"experiment": "demo", "seed": 0, "epochs": 1, "error": None}
    names = (("expert-blur", "train"), ("expert-noise", "train"), ("search", "search"))
    under_way = pa.Table.from_pylist([{**stage, "name": name, "kind": kind} for name, kind in names])
    given: Any = {"curves": curves_of(), "unfinished": under_way}
    page = Page(report.write(tmp_path, table(rows_of(["base"])), **given)[0].read_text())
    assert "every finished training stage that reports it. 2 more are not finished." in page.text["p"]
