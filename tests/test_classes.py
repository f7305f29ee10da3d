"""Answers class by class: the store's tables and the report, against scikit-learn on the stored predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score

from fusiondistill import report
from fusiondistill.report.choice import choice_lines, choices
from fusiondistill.report.class_section import class_blocks
from fusiondistill.report.classes import shown_rows
from fusiondistill.report.methods import Methods
from fusiondistill.report.page import shown
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views import results
from report_tables import Page, known
from shelf import Shelf

LABELS = np.array([0] * 12 + [1] * 5 + [2] * 3)
LEVELS = {"blur": [0, 4], "noise": [0, 2]}
PLACES = [("blur", 0), ("blur", 2), ("blur", 4), ("noise", 0), ("noise", 1), ("noise", 2)]
CONSTANT = "scratch"


def answers(method: str, seed: int, levels: int) -> Any:
    """What a made-up network says, [levels, images]: worse from level to level; one says class 1 alone."""
    rng = np.random.default_rng([len(method), seed])
    if method == CONSTANT:
        return np.ones((levels, len(LABELS)), np.int64)
    wrong = rng.random((levels, len(LABELS))) < np.linspace(0.1, 0.7, levels)[:, None]
    return np.where(wrong, rng.integers(0, 3, wrong.shape), LABELS)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A store of three rows and two seeds; blur is interpolated and in two pieces."""
    filled = Shelf(tmp_path_factory.mktemp("classes"), levels=LEVELS)
    for method in ("base", CONSTANT, "vanilla"):
        for seed in (0, 1):
            said = answers(method, seed, 6)
            for degradation, part, levels in (("blur", said[:2], (0, 2)), ("blur", said[2:3], (4,)),
                                              ("noise", said[3:], (0, 1, 2))):  # fmt: skip
                filled.piece(method, seed, degradation, part == LABELS, levels, labels=LABELS, said=part)
    filled.write()
    return filled


def of_level(row: dict[str, Any]) -> Any:
    said = answers(row["method"], row["seed"], 6)
    return said[(0, 2, 4).index(row["level"])] if row["degradation"] == "blur" else said[3 + row["level"]]


def test_results_hold_what_scikit_learn_finds_in_the_predictions(shelf: Shelf) -> None:
    rows = pq.read_table(shelf.store.path("results.parquet")).to_pylist()
    assert len(rows) == 3 * 2 * 6
    for row in rows:
        said = of_level(row)
        assert row["balanced"] == pytest.approx(balanced_accuracy_score(LABELS, said))
        assert row["majority"] == 12 and row["said_times"] == np.bincount(said).max()
        assert row["said"] == str(np.bincount(said).argmax())


def test_the_table_of_classes_counts_each_class_and_what_is_known_is_not_read_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pq.read_table(shelf.store.path("classes.parquet"))
    assert table.num_rows == 3 * 2 * 6 * 3
    for row in table.to_pylist():
        said, number = of_level(row), int(row["class"])
        counted = ((number == LABELS) & (said == number)).sum(), (number == LABELS).sum(), (said == number).sum()
        assert (row["right"], row["seen"], row["said"]) == counted
    read: list[str] = []
    original = Store.read_from
    monkeypatch.setattr(Store, "read_from", lambda self, *of: [read.append(of[1]), original(self, *of)][1])
    before = pq.read_table(shelf.store.path("results.parquet"))
    assert shelf.write().equals(before) and pq.read_table(shelf.store.path("classes.parquet")).equals(table)
    assert set(read) == {"counts.parquet"}


@pytest.fixture(scope="module")
def page(shelf: Shelf) -> Page:
    """The report of the store, in which Vanilla is the best single network."""
    table = pq.read_table(shelf.store.path("results.parquet"))
    return Page(Path(results.write_report(shelf.store, table)).read_text())


def named(method: str, degradation: str, level: int) -> Any:
    """What both seeds say of the images."""
    rows = ({"method": method, "seed": seed, "degradation": degradation, "level": level} for seed in (0, 1))
    return np.concatenate([of_level(row) for row in rows])


def test_confusions_are_those_of_scikit_learn(shelf: Shelf, page: Page) -> None:
    found = pq.read_table(shelf.store.path("confusions.parquet")).to_pylist()
    assert {(row["method"], row["degradation"], row["level"]) for row in found} == {
        (method, *place) for method in ("base", "vanilla") for place in PLACES if place != ("noise", 0)
    }, "undegraded images once, as blur's mildest level"
    matrices = [row for row in page.rows if len(row) == 4 and row[0] in ("0", "1", "2") and row[1:] != ["0", "1", "2"]]
    for method, degradation, level in {(row["method"], row["degradation"], row["level"]) for row in found}:
        expected = confusion_matrix(np.tile(LABELS, 2), named(method, degradation, level), labels=range(3))
        counted = np.zeros((3, 3), int)
        for row in found:
            if (row["method"], row["degradation"], row["level"]) == (method, degradation, level):
                counted[int(row["label"]), int(row["said"])] += row["count"]
        assert np.array_equal(counted, expected)
        shares = 100 * expected / expected.sum(1, keepdims=True)
        lines = [[str(i), *(f"{share:.0f}" if share >= 0.5 else "" for share in of)] for i, of in enumerate(shares)]
        assert any(matrices[i : i + 3] == lines for i in range(len(matrices))), (method, degradation, level)


def test_the_page_has_each_class_with_its_mean_over_levels(page: Page) -> None:
    """By recall_score, with the weights of the levels written out; the hardest class is on top."""
    rows = [row for row in page.rows if len(row) == 7]
    assert rows[0] == ["class", "test images", "Blur*", "Noise", "Avg*", "named", "Base, Avg"]
    for row in rows[1:]:
        number = int(row[0])
        means = {}
        for method in ("vanilla", "base"):
            recall = {
                place: recall_score(np.tile(LABELS, 2), named(method, *place), labels=[number], average="macro")
                for place in PLACES
            }
            blur = np.interp(range(5), (0, 2, 4), [recall["blur", level] for level in (0, 2, 4)]).mean()
            noise = np.mean([recall["noise", level] for level in range(3)])
            means[method] = [100 * blur, 100 * noise, 50 * (blur + noise)]
        assert row[1] == str((number == LABELS).sum())
        assert row[2:5] == [f"{value:.1f}" for value in means["vanilla"]] and row[6] == f"{means['base'][2]:.1f}"
    averages = [float(row[4]) for row in rows[1:]]
    assert len(averages) == 3 and averages == sorted(averages)


def test_of_many_classes_the_pairs_that_are_taken_for_each_other_are_said() -> None:
    many = pa.Table.from_pylist(
        [
            {"method": "base", "seed": 0, "degradation": "blur", "level": 0, "class": f"c{i}", "right": 7,
             "seen": 10, "said": 10} for i in range(120)
        ]
    )  # fmt: skip
    pairs = pa.Table.from_pylist(
        [
            {"method": "base", "degradation": "blur", "level": 0, "label": f"c{i}", "said": f"c{j}", "count": n}
            for i in range(120) for j, n in ((i, 7), ((i + 1) % 120, 3 if i else 2), (5, 0 if i else 1))
        ]
    )  # fmt: skip
    given = {"experiment": "x", "model": "m", "dataset": "d", "protocol": "standard", "seed": 0, "seen": 1200}
    results = pa.Table.from_pylist([{**given, "method": "base", "degradation": "blur", "level": 0, "right": 840}])
    (group,) = report.summarise(results)
    page = Page(shown(class_blocks(group, many, pairs, None)))
    (line,) = [row for row in page.rows if row[0] == "Not degraded"]
    assert line[1:] == ["70.0", "c1 as c2 30, c2 as c3 30, c3 as c4 30, c4 as c5 30, c5 as c6 30"]
    assert sum(row[0].startswith("c") and len(row) == 5 for row in page.rows) == 100 + 1, "and the heading"
    assert "The hardest 100 of 120 classes" in page.text["p"]


def test_changed_counts_of_classes_are_not_taken_over(shelf: Shelf) -> None:
    """By a program that knows the file, and by a bit."""
    path = Path(shelf.store.path("classes.parquet"))
    sound, table = path.read_bytes(), pq.read_table(path)
    lie = table.set_column(6, "right", pa.array([1] * table.num_rows, pa.int32()))
    assert lie.schema == table.schema and lie.schema.metadata == table.schema.metadata
    for broken in (parquet_bytes(lie), sound[: len(sound) // 2], sound.replace(b"vanilla", b"vaniIla"),
                   parquet_bytes(lie.drop_columns(["stage"]))):  # fmt: skip
        assert broken != sound
        path.write_bytes(broken)
        shelf.write()
        assert path.read_bytes() == sound


def test_a_row_that_says_one_class_is_marked_wherever_it_stands(shelf: Shelf, page: Page) -> None:
    table = pq.read_table(shelf.store.path("results.parquet"))
    lines = results.table_lines(shelf.store, table)
    assert sum(line.startswith("Scratch (one class)") for line in lines) == 2  # beside the accuracies and the rest
    text = " ".join(lines)
    assert (
        'one class for every image (one class): "1" (Scratch).' in text
        and "Always naming the largest class would give 60.0 %." in text
    )
    assert not any(line.startswith(("Base (one", "Vanilla (one")) for line in lines)
    assert [row for row in page.rows if row[0] == 'Scratch always says "1"']
    assert "| Scratch (one class) |" in Path(shelf.store.path("report", "table.md")).read_text()


def test_the_best_network_says_so_where_it_names_one_class(shelf: Shelf) -> None:
    """What a user reads at the end of a run; the chosen row is the one shown class by class."""
    table = pq.read_table(shelf.store.path("results.parquet"))
    (group,) = report.summarise(table, planned=results.planned_table([shelf.plan], table))
    judged = pa.Table.from_pylist(
        [
            {"same": "", "experiment": "x", "model": group.model, "method": method, "seed": seed, "network": "n",
             "place": "p", "why": "", "right": right, "seen": 9, "clean_right": 1, "clean_seen": 9, "foreign": False,
             "any_size": True, "plugin": ""}
            for method, right in (("base", 2), (CONSTANT, 3)) for seed in (0, 1)
        ]
    )  # fmt: skip
    assert [row.method for row in shown_rows(group, judged)] == [CONSTANT, "base"]
    assert [row.method for row in shown_rows(group, None)] == ["vanilla", "base"]
    found = choices(judged, [group], {"": Methods()})
    text = " ".join(choice_lines(found, judged))
    assert 'It always says "1", for every test image at every level.' in text
    assert "no better than always naming the largest class, which gives 60.0 %" in text
    better = choices(judged.filter(pa.array([True, True, False, False])), [group], {"": Methods()})
    assert "Best single network: base" in (text := " ".join(choice_lines(better, judged))) and "no better" not in text


def test_balanced_accuracies_stand_beside_the_accuracies_where_classes_are_uneven(shelf: Shelf, tmp_path: Path) -> None:
    table = pq.read_table(shelf.store.path("results.parquet"))
    lines = results.table_lines(shelf.store, table)
    heading = next(line for line in lines if "balanced, %" in line)
    cells = {line.split()[0]: line for line in lines[lines.index(heading) :]}
    values = []
    for seed in (0, 1):
        at = [balanced_accuracy_score(LABELS, one) for one in answers("vanilla", seed, 6)]
        blur = (at[0] + (at[0] + at[1]) / 2 + at[1] + (at[1] + at[2]) / 2 + at[2]) / 5
        values.append(100 * (blur + np.mean(at[3:])) / 2)
    assert f" {np.mean(values):.1f} ±" in cells["Vanilla"] and " 33.3 ±0.0 " in cells["Scratch"]
    even = Shelf(tmp_path)
    even.piece("base", 0, "blur", np.ones((2, 60), bool), (0, 10))
    assert not any("balanced" in line for line in results.table_lines(even.store, even.write()))


def test_a_store_without_predictions_has_no_such_figures(tmp_path: Path) -> None:
    old = Shelf(tmp_path)
    old.piece("base", 0, "blur", np.ones((2, 60), bool), (0, 10), images=False)
    table = old.write()
    assert table["balanced"].null_count == table["said"].null_count == 2
    assert pq.read_table(old.store.path("classes.parquet")).num_rows == 0
    assert "largest class" not in " ".join(results.table_lines(old.store, table))
    assert pa.types.is_float64(table.schema.field("balanced").type) and known(table)
