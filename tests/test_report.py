"""The report's numbers against plain loops, and its lines for a terminal."""

import itertools
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planned_report as report
from fusiondistill.report.drawing import spread
from fusiondistill.report.published import AVERAGE
from fusiondistill.report.words import MISSING
from report_tables import FEW, LEVELS, METHODS, Page, known, rows_of, table, trials_of


def expected(rows: list[dict[str, Any]], method: str, degradation: str, seed: int) -> float:
    """A cell in percent by a plain loop."""
    wanted = (method, degradation, seed)
    found = [r["right"] / r["seen"] for r in rows if (r["method"], r["degradation"], r["seed"]) == wanted]
    return 100 * sum(found) / len(found)


def test_every_number_of_the_table_is_what_plain_loops_give() -> None:
    rows = rows_of()
    (group,) = report.summarise(table(rows))
    assert len(group.rows) == len(METHODS)
    for row in group.rows:
        by_seed = [[expected(rows, row.method, d, s) for d in FEW] for s in range(3)]
        for i, name in enumerate(FEW):
            values = [of_seed[i] for of_seed in by_seed]
            interval = known(row.cells[name].interval)
            assert interval.mean == pytest.approx(statistics.mean(values))
            assert interval.half == pytest.approx(4.302652729911275 * statistics.stdev(values) / math.sqrt(3))
        averages = [sum(of_seed) / 4 for of_seed in by_seed]
        assert known(row.average.interval).mean == pytest.approx(statistics.mean(averages))
        assert known(row.average.interval).half == pytest.approx(
            4.302652729911275 * statistics.stdev(averages) / math.sqrt(3)
        )


def test_rows_and_columns_come_in_the_papers_order() -> None:
    (group,) = report.summarise(table(rows_of([*METHODS, "expert-haze", "mine"])[::-1]))
    assert [row.method for row in group.rows] == [
        "base", "oracle", "ensemble", "scratch", "vanilla", "modelsoups", "modelsoups-told", "fusing", "fusiondistill",
        "fusiondistill-searched", "mine", "expert-haze", "expert-jpeg", "expert-blur", "expert-noise",
        "expert-saltpepper",
    ]  # fmt: skip
    assert group.degradations == ("jpeg", "blur", "noise", "saltpepper")
    assert group.levels["jpeg"] == (1, 50, 101)
    assert group.seeds == (0, 1, 2)


def test_shards_add_up() -> None:
    rows = rows_of(["base"])
    halves = [
        {**r, "right": part(r["right"]), "seen": 20} for r in rows for part in (lambda n: n // 2, lambda n: n - n // 2)
    ]
    assert report.summarise(table(halves)) == report.summarise(table(rows))


@pytest.mark.parametrize(
    "lost",
    [
        lambda r: (r["method"], r["seed"], r["degradation"], r["level"]) == ("fusing", 1, "jpeg", 50),
        lambda r: (r["method"], r["seed"], r["degradation"]) == ("fusing", 1, "jpeg"),
    ],
)
def test_a_cell_counts_only_the_seeds_that_are_complete(lost: Callable[[dict[str, Any]], bool]) -> None:
    rows = [row for row in rows_of() if not lost(row)]
    (group,) = report.summarise(table(rows))
    row = known(group.row("fusing"))
    assert sorted(row.cells["jpeg"].by_seed) == [0, 2]
    assert sorted(row.cells["blur"].by_seed) == [0, 1, 2]
    assert sorted(row.average.by_seed) == [0, 2]
    line = next(line for line in report.table_lines(table(rows)) if line.startswith("Fusing"))
    assert re.search(r"^Fusing +\d+\.\d ±\d+\.\d \[2\] +\d+\.\d ±\d+\.\d +", line)


def test_images_still_missing_make_a_cell_missing_and_null_is_not_evaluated() -> None:
    rows = rows_of(["base", "fusing"], seeds=(0,))
    rows[-1] = {**rows[-1], "right": 3, "seen": 20}  # a shard of 20 of the 40 images is all there is
    rows[0] = {**rows[0], "right": None, "seen": None}
    (group,) = report.summarise(table(rows))
    assert known(group.row("fusing")).cells["saltpepper"].interval is None
    assert known(group.row("base")).cells["jpeg"].interval is None
    assert known(group.row("base")).average.interval is None
    assert known(group.row("base")).cells["blur"].interval is not None


def test_what_was_promised_but_not_evaluated_is_shown_as_missing(tmp_path: Path) -> None:
    rows = rows_of(["base"], levels={"blur": (0, 25)})
    results = table(rows)
    promised = itertools.product(("base", "fusiondistill"), LEVELS)
    to_come = [{**rows[0], "method": method, "degradation": name} for method, name in promised]
    asked: Any = {"planned": report.plan_of(table(to_come))}
    lines = report.table_lines(results, **asked)
    assert next(line for line in lines if line.startswith("FusionDistill")).split() == ["FusionDistill", *[MISSING] * 5]
    base = next(line for line in lines if line.startswith("Base")).split()
    assert base[0:2] == ["Base", MISSING] and base[-1] == MISSING and base[2] != MISSING
    page = Page(report.write(tmp_path, results, **asked)[0].read_text())
    assert ["FusionDistill", *[MISSING] * 5] in page.rows
    assert [p.name for p in (tmp_path / "figures").glob("*.svg")] == ["accuracy-blur.svg"]


def test_nothing_evaluated_yet_is_a_page_too(tmp_path: Path) -> None:
    empty = table([])
    page = Page(report.write(tmp_path, empty, trials=trials_of().slice(0, 0))[0].read_text())
    assert "Nothing is evaluated yet." in page.text["p"]
    assert report.table_lines(empty) == ["Nothing is evaluated yet."]
    assert report.summarise(empty) == []


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"no column level; they have experiment"):
        report.summarise(table(rows_of(["base"])).drop_columns(["level"]))


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which a table of four degradations is not cut."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("columns", [60, 80, 90])
def test_lines_fit_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = report.table_lines(table(rows_of()))
    assert columns - 20 < max(map(len, lines)) <= columns
    monkeypatch.delenv("COLUMNS")
    assert max(map(len, report.table_lines(table(rows_of())))) <= 80


def test_terminal_table_is_aligned_and_fits() -> None:
    lines = report.table_lines(table(rows_of()))
    start = next(i for i, line in enumerate(lines) if "JPEG  " in line)
    body = lines[start : start + len(METHODS) + 1]
    starts = [[m.start() for m in re.finditer(r"±\d+\.\d", line)] for line in body[1:]]
    assert all(len(start) == 5 and start == starts[0] for start in starts)
    assert max(map(len, lines)) <= 100
    assert "n = 3 seeds" in " ".join(lines) and "images per level: 40" in " ".join(lines)


@pytest.mark.parametrize("dataset", ["cifar100", "tiny_imagenet"])
def test_published_figures_are_transcribed_right(dataset: str) -> None:
    # Each printed average is the mean of its cells to rounding, but for one row that METHOD.md names.
    for method in ("oracle", "ensemble", "scratch", "vanilla", "modelsoups", "fusing", "fusiondistill"):
        mean = sum(known(report.published(dataset, method, name)) for name in LEVELS) / 4
        wrong = (dataset, method) == ("tiny_imagenet", "ensemble")
        assert (abs(mean - known(report.published(dataset, method, AVERAGE))) > 0.1) == wrong


def test_published_knows_what_the_paper_does_not_have() -> None:
    assert report.published("cifar100", "fusiondistill", "saltpepper") == 73.7
    assert report.published("tiny_imagenet", "vanilla", AVERAGE) == 54.9
    assert report.published("cifar100", "base", "jpeg") is None
    assert report.published("cifar10", "oracle", "jpeg") is None
    assert report.published("cifar100", "oracle", "fog") is None
    assert report.published("cifar100", "fusiondistill-searched", "jpeg") is None


def test_differences_from_published_only_for_their_network_and_protocol(tmp_path: Path) -> None:
    def lines(model: str, protocol: str) -> tuple[str, str]:
        found = report.table_lines(table(rows_of(["vanilla"], dataset="cifar100", model=model, protocol=protocol)))
        return next(line for line in found if "published, ResNet-56" in line), " ".join(found)

    line, text = lines(model="cifar_resnet56", protocol="paper")
    (group,) = report.summarise(table(rows_of(["vanilla"], dataset="cifar100")))
    gap = known(known(group.row("vanilla")).cells["jpeg"].interval).mean - 62.2
    assert f"62.2 ({gap:+.1f})" in line and "ours minus theirs" in text
    line, text = lines(model="cifar_resnet20", protocol="paper")
    assert line.split()[2:] == ["62.2", "56.0", "63.8", "70.2", "63.1"] and "network cifar_resnet20" in text
    line, text = lines(model="cifar_resnet56", protocol="standard")
    assert "(" not in line and "protocol standard" in text
    assert "published" not in " ".join(report.table_lines(table(rows_of(["vanilla"]))))


@pytest.mark.parametrize(
    ("columns", "kind", "shown"),
    [
        (["saltpepper", "jpeg", "blur", "noise"], "trained", ["62.2", "56.0", "63.8", "70.2", "63.1"]),
        (["jpeg", "blur"], "trained", ["62.2", "56.0"]),
        (["jpeg", "blur", "noise", "saltpepper", "haze"], "trained", ["62.2", "56.0", "63.8", "70.2"]),
        (["blur", "noise"], "unseen", []),
        (["c-fog"], "corruption", []),
    ],
)
def test_a_published_average_stands_only_under_an_average_of_the_same_columns(
    columns: list[str], kind: str, shown: list[str]
) -> None:
    rows = rows_of(["vanilla"], dataset="cifar100", levels=dict.fromkeys(columns, (1, 2)))
    results = table(rows).append_column("kind", [[kind] * len(rows)])
    lines = [line for line in report.table_lines(results) if "published, ResNet-56" in line]
    assert [line.split()[2:] for line in lines] == ([shown] if shown else [])


def test_labels_are_spread_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        wanted = list(rng.choice([10.0, 50.0, 90.0], 6) + rng.normal(0, 2, 6))
        places = spread(wanted, 5.0, 0.0, 100.0)
        assert [places[i] for i in np.argsort(wanted)] == sorted(places)
        assert min(np.diff(sorted(places))) >= 5.0 - 1e-9
        assert min(places) >= -1e-9 and max(places) <= 100 + 1e-9
    assert spread([3.0, 20.0, 40.0], 5.0, 0.0, 100.0) == [3.0, 20.0, 40.0], "what fits stays"
    assert spread([50.0, 50.0], 10.0, 0.0, 100.0) == [45.0, 55.0], "moved as little as possible"
    assert spread([], 1.0, 0.0, 1.0) == []
