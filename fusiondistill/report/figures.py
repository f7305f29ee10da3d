"""Which figures the report has, and what each of them shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusiondistill.report import drawing
from fusiondistill.report.groups import TRAINED, Group
from fusiondistill.report.style import line_styles
from fusiondistill.report.words import (
    FALLING,
    MISSING,
    degradation_title,
    in_order,
    level_axis,
    method_title,
    printable,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

__all__ = ["Picture", "Pictures", "dimensions", "text_dimensions"]

_BOOK_KEEPING = ("trial", "epochs", "seeds", "validation", "stopped", "seed", "experiment")


@dataclass(frozen=True)
class Picture:
    """A rendered figure: file name without suffix, what stands above and below it, and what a screen reader says."""

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes
    png: bytes


@dataclass
class Pictures:
    """Draws the report's figures; keeps file names apart."""

    used: set[str] = field(default_factory=set)

    def of_group(self, group: Group, prefix: str = "") -> list[Picture]:
        """Accuracy against level for each degradation, and the experts' heat map where experts were cross-evaluated."""
        with drawing.settings():
            return [*self._levels(group, prefix), *(self._heat(group, prefix) if group.kind == TRAINED else ())]

    def of_curves(self, curves: pa.Table) -> list[Picture]:
        """One figure per metric: its value after each epoch, a line for each stage."""
        with drawing.settings():
            return list(self._curves(curves))

    def of_trials(self, trials: pa.Table) -> list[Picture]:
        """Validation accuracy against each dimension of the search."""
        with drawing.settings():
            return list(self._trials(trials))

    def _picture(self, name: str, title: str, caption: str, alt: str, figure: Figure) -> Picture:
        stem = plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "figure"
        count = 1
        while stem in self.used:
            count += 1
            stem = f"{plain}-{count}"
        self.used.add(stem)
        return Picture(stem, title, caption, alt, *drawing.rendered(figure))

    def _levels(self, group: Group, prefix: str) -> Iterator[Picture]:
        rows = [row for row in group.rows if not row.is_expert]
        styles = line_styles([row.method for row in rows])
        everything = [v for row in rows for by in row.curves.values() for curve in by.values() for v in curve]
        if not everything:
            return
        pad = 0.04 * (max(everything) - min(everything)) + 0.5
        limits = max(min(everything) - pad, -1.0), min(max(everything) + pad, 101.0)
        for name in group.degradations:
            step = -1 if name in FALLING else 1
            levels = np.array(group.levels[name], dtype=np.float64)[::step]
            drawn = {row.method: np.array([*row.curves[name].values()])[:, ::step] for row in rows if row.curves[name]}
            if not drawn:
                continue
            dots = group.interpolated(name)
            lines = [
                replace(_line(method_title(m), styles[m], levels, values), dots=dots) for m, values in drawn.items()
            ]
            ends = "; ".join(f"{line.label}: {line.y[0]:.1f} to {line.y[-1]:.1f}" for line in lines)
            yield self._picture(
                f"{prefix}accuracy-{name}",
                degradation_title(name),
                f"{_seeds(len(v) for v in drawn.values())} {group.images[name]:,} test images per level."
                + (" Dots are measured levels." if dots else ""),
                f"Accuracy in percent against {level_axis(name)}, from {levels[0]:g} to {levels[-1]:g}. {ends}.",
                drawing.line_chart(lines, level_axis(name), "accuracy, %", limits),
            )

    def _heat(self, group: Group, prefix: str) -> Iterator[Picture]:
        rows = [row for row in group.rows if row.is_expert or row.method in ("base", "fusiondistill")]
        if not any(row.is_expert and sum(1 for c in row.cells.values() if c.by_seed) > 1 for row in rows):
            return
        rows.sort(key=lambda row: (row.method == "fusiondistill", row.is_expert))
        grid = [[row.cells[name].interval for name in group.degradations] for row in rows]
        values = np.array([[cell.mean if cell else np.nan for cell in line] for line in grid])
        titles = [method_title(row.method) for row in rows]
        columns = [degradation_title(name) for name in group.degradations]
        cells = [", ".join(f"{c} {v:.1f}" for c, v in zip(columns, line, strict=True)) for line in values]
        said = "; ".join(f"{title}: {line}" for title, line in zip(titles, cells, strict=True)).replace("nan", MISSING)
        yield self._picture(
            f"{prefix}experts",
            "Every expert on every degradation",
            "Accuracy in %, with the levels, images and seeds of the table above. Where an expert meets its own "
            "degradation stands what the Oracle row says.",
            f"Accuracy in percent. {said}.",
            drawing.heat_map(values, titles, columns),
        )

    def _curves(self, curves: pa.Table) -> Iterator[Picture]:
        found: dict[str, dict[str, dict[int, dict[int, float]]]] = {}
        columns = (curves[name].to_pylist() for name in ("name", "stage", "seed", "epoch", "value"))
        for name, stage, seed, epoch, value in zip(*columns, strict=True):
            if value is not None:
                found.setdefault(name, {}).setdefault(stage, {}).setdefault(seed, {})[epoch] = value
        for name, stages in found.items():
            percent = "accuracy" in name.lower()
            styles = line_styles(list(stages))
            lines = []
            for stage in in_order(stages):
                epochs = sorted({epoch for by_epoch in stages[stage].values() for epoch in by_epoch})
                values = np.array([[by.get(e, np.nan) for e in epochs] for by in stages[stage].values()], dtype=float)
                values = np.where(np.isfinite(values), values, np.nan) * (100 if percent else 1)
                lines.append(_line(method_title(stage), styles[stage], np.array(epochs, dtype=float), values))
            title = printable(name).replace("_", " ").replace("/", " ")
            yield self._picture(
                f"training-{name}",
                title[:1].upper() + title[1:],
                _seeds(len(by_seed) for by_seed in stages.values()),
                f"{title} after each epoch for {', '.join(line.label for line in lines)}.",
                drawing.line_chart(lines, "epoch", f"{title}, %" if percent else title),
            )

    def _trials(self, trials: pa.Table) -> Iterator[Picture]:
        rows = [row for row in trials.to_pylist() if row.get("validation") is not None]
        panels = [(printable(name), [_number(row[name]) for row in rows]) for name in dimensions(trials)]
        if not rows or not panels:
            return
        stopped = [bool(row.get("stopped")) for row in rows]
        figure = drawing.scatter_charts(panels, [100 * row["validation"] for row in rows], stopped, "validation, %")
        yield self._picture(
            "search",
            "What the search tried",
            f"One point per trial, n = {len(rows)}; rings are trials that were stopped early.",
            f"Validation accuracy of {len(rows)} trials against {', '.join(name for name, _ in panels)}.",
            figure,
        )


def dimensions(trials: pa.Table) -> list[str]:
    """The searched numbers among the columns of a trials table: whatever is not book-keeping and is a number."""
    import pyarrow.types as kinds

    numeric = [f.name for f in trials.schema if kinds.is_floating(f.type) or kinds.is_integer(f.type)]
    return [name for name in numeric if name not in _BOOK_KEEPING]


def text_dimensions(trials: pa.Table) -> list[str]:
    """The searched choices that are no numbers, as the method of fusion."""
    import pyarrow.types as kinds

    shown = (kinds.is_string, kinds.is_large_string, kinds.is_boolean)
    return [f.name for f in trials.schema if f.name not in _BOOK_KEEPING and any(is_(f.type) for is_ in shown)]


def _line(label: str, style: drawing.LineStyle, x: NDArray[np.float64], values: NDArray[np.float64]) -> drawing.Series:
    """A line of means over seeds with a band from the lowest to the highest; values: [seeds, x], NaN where missing."""
    if len(values) == 1:
        return drawing.Series(label, style, x, values[0])
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    mean = np.where(counts, np.where(known, values, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)
    low = np.where(counts, np.where(known, values, np.inf).min(axis=0), np.nan)
    high = np.where(counts, np.where(known, values, -np.inf).max(axis=0), np.nan)
    return drawing.Series(label, style, x, mean, low, high)


def _seeds(counts: Iterable[int]) -> str:
    """How many seeds are behind the lines."""
    drawn = sorted(set(counts))
    if drawn == [1]:
        return "One seed."
    number = " to ".join(str(count) for count in dict.fromkeys((drawn[0], drawn[-1])))
    return f"n = {number} seeds: lines are their means, bands reach from the lowest to the highest."


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
