"""The page's section about single classes: accuracies, confusions, and the most confident mistakes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusiondistill.report.answers import always
from fusiondistill.report.blocks import Block, Folded, Matrices, Matrix, Shot, Table, Text, grid_blocks, named
from fusiondistill.report.classes import ByClass, Condition, by_class, chosen_row, conditions, confusion, shown_rows
from fusiondistill.report.grid import Entry, Grid
from fusiondistill.report.groups import Group, Row
from fusiondistill.report.tables import column_title
from fusiondistill.report.words import MISSING, printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["class_blocks"]

_HARDEST = 100  # classes of a table
_MATRIX = 20  # classes of a matrix that can be read
_CELLS = 8_000  # of all matrices of a row
_PAIRS = 5  # of classes that are taken for each other, at one level
_BYTES = 1_500_000  # of pictures in a page


def class_blocks(
    group: Group,
    counts: pa.Table,
    confusions: pa.Table | None,
    mistakes: pa.Table | None,
    judged: pa.Table | None = None,
    experiments: int = 1,
) -> list[Block]:
    """The best single network class by class, and below it another row, folded: see :func:`classes.shown_rows`.

    Args:
        counts: see :func:`~fusiondistill.report.classes.by_class`; perhaps of more rows than are shown.
        confusions: see :func:`~fusiondistill.report.classes.confusion`.
        mistakes: rows (method: str, degradation: str, level: int64, index: int64, label: str, said: str, confidence:
            float64, image: binary (PNG)), the most confident ones first.
        judged: which rows are shown: see :func:`~fusiondistill.report.classes.shown_rows`.
        experiments: how many of them share the room that a page has for pictures.
    """
    found = [(row, of) for row in shown_rows(group, judged) if (of := by_class(group, row, counts))]
    if not found:
        return []
    (best, of_best), *others = found
    room = _BYTES // (experiments * len(found))
    below = [(row, of) for row, of in others if of.classes == of_best.classes]
    blocks = [Text(_note(group, found, judged)), *grid_blocks(_grid(group, of_best, below))]
    for row, of in found:
        of_row = [*_confusions(group, row, of, confusions), *_mistakes(group, row, mistakes, room)]
        titled = named(f"{row.about.name}: what is taken for what", of_row)
        blocks += titled if row is best else [Folded(f"The same for {row.about.name}", of_row)] if of_row else []
    return blocks


def _note(group: Group, found: Sequence[tuple[Row, ByClass]], judged: pa.Table | None) -> str:
    best, *others = [row for row, _ in found]
    why = "was chosen by validation" if best is chosen_row(group, judged) else "has the best average in the table above"
    said = f"Of the single networks {best.about.name} {why}"
    said += f"; beside it {others[0].about.name}." if others else "."
    constant = [f"{row.about.name} {always(row)}." for row, _ in found if row.always]
    seeds = " Means over seeds." if len(group.seeds) > 1 else ""
    return " ".join([said, *constant]) + seeds


def _grid(group: Group, of: ByClass, others: Sequence[tuple[Row, ByClass]]) -> Grid:
    """A line for each class, the hardest on top."""
    order = np.argsort(np.where(np.isnan(of.average), np.inf, of.average), kind="stable")[:_HARDEST]
    columns = [*(of.right[name] for name in group.degradations), of.average, of.named]
    columns += [other.average for _, other in others]
    rows = tuple(
        ((printable(of.classes[i]), ""), (f"{of.seen[i]:,}", ""), *(_percent(values[i]) for values in columns))
        for i in order.tolist()
    )
    titles = [*(column_title(group, column) for column in group.columns), "named"]
    titles += [f"{row.about.name}, Avg" for row, _ in others]
    note = (
        "Accuracy in % on the test images of each class, averaged as in the table above, the hardest class on top. "
        "Named: how many % of all test images were given the class."
    )
    if len(of.classes) > len(rows):
        note += f" The hardest {len(rows)} of {len(of.classes):,} classes; the store's classes.parquet has all."
    return Grid("Classes", ("class", "test images", *titles), rows, note)


def _percent(value: float) -> Entry:
    return (MISSING if np.isnan(value) else f"{value:.1f}"), ""


def _confusions(group: Group, row: Row, of: ByClass, confusions: pa.Table | None) -> list[Block]:
    """Matrices, or where there are too many classes for them the classes that are most often taken for each other."""
    if confusions is None:
        return []
    asked = [(one, confusion(of.classes, row, one, confusions)) for one in conditions(group)]
    known = [(one, counts) for one, counts in asked if counts is not None]
    if not known:
        return []
    if len(of.classes) > _MATRIX or len(known) * len(of.classes) ** 2 > _CELLS:
        heading = ("", "right, %", f"the {_PAIRS} most frequent mistakes, in % of the images of the class")
        rows = [(one.title, f"{_right(counts):.1f}", _pairs(of.classes, counts)) for one, counts in known]
        return [Table(f"Mistakes of {row.about.name}", heading, rows, "stages")]
    note = "A row for each class, a column for each class that the network named; % of the images of the row's class."
    note += " The seeds are counted together." if len(group.seeds) > 1 else ""
    matrices = [
        Matrix(f"{one.title}: {_right(counts):.1f} % right", [printable(name) for name in of.classes], _shares(counts))
        for one, counts in known
    ]
    return [Text(note), Matrices(matrices)]


def _right(counts: NDArray[np.float64]) -> float:
    return float(100 * counts.trace() / counts.sum())


def _shares(counts: NDArray[np.float64]) -> list[list[float]]:
    """Of each line in percent; a class without images has 0 everywhere."""
    shares: list[list[float]] = (100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist()
    return shares


def _pairs(classes: Sequence[str], counts: NDArray[np.float64]) -> str:
    """The most frequent mistakes: "cat as dog 31, dog as cat 22"."""
    shares = np.array(_shares(counts))
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, shares)
    most = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(place), len(classes)) for place in most if wrong.flat[place] > 0]
    return ", ".join(f"{printable(classes[a])} as {printable(classes[b])} {shares[a, b]:.0f}" for a, b in pairs)


def _mistakes(group: Group, row: Row, mistakes: pa.Table | None, room: int) -> list[Block]:
    """The pictures about which a row is wrong and surest, a line for each degradation and level."""
    of_row = [one for one in mistakes.to_pylist() if one["method"] == row.method] if mistakes is not None else []
    lines: list[tuple[Condition, list[Mapping[str, object]]]] = []
    for condition in conditions(group):
        shots = [
            one for one in of_row if (one["degradation"], one["level"]) == (condition.degradation, condition.level)
        ]
        room -= sum(len(one["image"]) for one in shots)
        if shots and room > 0:
            lines.append((condition, shots))
    if not lines:
        text = (
            f"No confident mistakes of {row.about.name} are on record: it made none at the levels shown, or it was "
            "evaluated by a version that kept none."
        )
        return [Text(text)]
    most = max(len(shots) for _, shots in lines)
    body = [
        ((one.title, ""), *(_shot(one, shot) for shot in shots), *[""] * (most - len(shots))) for one, shots in lines
    ]
    heading = ("", "surest mistake", *("next" for _ in range(most - 1)))
    note = f"The test images about which {row.about.name} is wrong and surest, as it saw them (first seed)."
    return [Text(note), Table(f"Surest mistakes of {row.about.name}", heading, body, "examples")]


def _shot(condition: Condition, one: Mapping[str, object]) -> Shot:
    label, said, image = one["label"], one["said"], one["image"]
    assert isinstance(image, bytes)
    alt = f"{label}, image {one['index']} of the test split, {condition.title}"
    verdicts = [(False, "said", f"{said}, {100 * float(str(one['confidence'])):.1f} % sure"), (True, "is", str(label))]
    return Shot(base64.b64encode(image).decode(), alt, verdicts)
