"""The figures of a table: accuracy against level, gains over the base, clean accuracy, experts on all degradations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fusiondistill.report.drawing import heat_map, labelled_points, line_chart
from fusiondistill.report.figures import Picture, Pictures, seeds_line, seeds_text
from fusiondistill.report.groups import TRAINED, Column, Group, Row
from fusiondistill.report.published import AVERAGE
from fusiondistill.report.style import line_styles
from fusiondistill.report.words import FALLING, MISSING, degradation_title, level_axis, short_title

__all__ = ["level_pictures", "map_pictures"]


_MANY = 7  # columns of a map that takes the whole width of the page


def level_pictures(draw: Pictures, group: Group, prefix: str = "") -> Iterator[Picture]:
    """Accuracy against level for each degradation, a line for each method that is no single expert.

    Each degradation has its own scale: on that of the hardest one the lines of the others would lie on each other.
    """
    rows = [row for row in group.rows if not row.is_expert]
    styles = line_styles(group.methods)
    for name in group.degradations:
        step, axis = -1 if group.entry(name) in FALLING else 1, _axis(group, name)
        levels = np.array(group.levels[name], dtype=np.float64)[::step]
        drawn = [(row.about, np.array([*row.curves[name].values()])[:, ::step]) for row in rows if row.curves[name]]
        if not drawn:
            continue
        dots = group.interpolated(name)
        lines = [
            replace(seeds_line(about.name, styles[about.id], levels, values), dots=dots) for about, values in drawn
        ]
        ends = "; ".join(f"{line.label}: {line.y[0]:.1f} to {line.y[-1]:.1f}" for line in lines)
        yield draw.picture(
            f"{prefix}accuracy-{name}",
            degradation_title(name),
            f"{seeds_text(len(values) for _, values in drawn)} {group.images[name]:,} test images per level."
            + (" Dots are measured levels." if dots else "")
            + (" The scale is this figure's own." if len(group.degradations) > 1 else ""),
            f"Accuracy in percent against {axis}, from {levels[0]:g} to {levels[-1]:g}. {ends}.",
            partial(line_chart, lines, axis, "accuracy, %", _limits([values for _, values in drawn])),
        )


def _axis(group: Group, name: str) -> str:
    """The label of the axis of a column's levels."""
    return level_axis(group.entry(name), group.about.get(name, Column()).means)


def _limits(curves: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """The lowest and highest accuracy of an axis, in percent: a little more than all curves, never less than 10."""
    values = np.concatenate([curve.ravel() for curve in curves])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = max(0.04 * (high - low) + 0.5, (10 - (high - low)) / 2)
    return max(low - pad, -1.0), min(high + pad, 101.0)


def map_pictures(draw: Pictures, group: Group, prefix: str = "") -> Iterator[Picture]:
    """The gain over the base, clean against average accuracy, and the experts where they were cross-evaluated."""
    yield from _gains(draw, group, prefix)
    yield from _clean(draw, group, prefix)
    if group.kind == TRAINED:
        yield from _experts(draw, group, prefix)


def _gains(draw: Pictures, group: Group, prefix: str) -> Iterator[Picture]:
    base = group.base
    rows = [row for row in group.rows if not row.is_expert and row is not base]
    if base is None or not rows:
        return
    values = np.array([[_gain(row, base, column) for column in group.columns] for row in rows])
    if not np.isfinite(values).any():
        return
    rows = [row for row, line in zip(rows, values, strict=True) if np.isfinite(line).any()]
    values = values[np.isfinite(values).any(axis=1)]
    titles = [row.about.name for row in rows]
    columns = ["Avg" if column == AVERAGE else short_title(column) for column in group.columns]
    yield draw.picture(
        f"{prefix}gain",
        "Gain over the base",
        "Accuracy minus the base's in percentage points, the mean over the seeds that both have. Purple: above the "
        "base, orange: below."
        + (" Which differences are more than chance is a matter of the tests above." if group.comparisons else ""),
        f"Points above or below the base. {_said(titles, columns, values, '+.1f')}.",
        partial(heat_map, values, titles, columns, signed=True),
        wide=len(columns) > _MANY,
    )


def _gain(row: Row, base: Row, column: str) -> float:
    """Points above the base over common seeds; NaN without a common seed."""
    ours, theirs = row.cell(column).by_seed, base.cell(column).by_seed
    gains = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return sum(gains) / len(gains) if gains else float("nan")


def _clean(draw: Pictures, group: Group, prefix: str) -> Iterator[Picture]:
    found = [
        (row.about, clean.mean, average.mean)
        for row in group.rows
        if not row.is_expert and (clean := row.clean.interval) and (average := row.average.interval)
    ]
    if len(found) < 2:
        return
    styles = line_styles(group.methods)
    points = [(about.name, styles[about.id], x, y) for about, x, y in found]
    said = "; ".join(f"{title}: {x:.1f} clean, {y:.1f} on average" for title, _, x, y in points)
    yield draw.picture(
        f"{prefix}clean",
        "Clean against degraded images",
        "Does a network pay for its robustness on clean images? Up is better on degraded images, right is better on "
        "clean ones. Means over seeds.",
        f"Average accuracy over degradations against accuracy on clean images, in percent. {said}.",
        partial(labelled_points, points, "accuracy on clean images, %", "average accuracy, %"),
    )


def _experts(draw: Pictures, group: Group, prefix: str) -> Iterator[Picture]:
    experts = [row for row in group.rows if row.is_expert]
    if not any(sum(1 for c in row.cells.values() if c.by_seed) > 1 for row in experts):
        return
    rows = [*([group.base] if group.base else []), *experts, *group.ours[:1]]
    of = {row.about.of for row in experts}
    own = [
        row.about.name for row in group.rows if row.about.told and row.about.form == "combined" and {row.about.of} == of
    ]
    grid = [[row.cells[name].interval for name in group.degradations] for row in rows]
    values = np.array([[cell.mean if cell else np.nan for cell in line] for line in grid])
    titles = [row.about.name for row in rows]
    columns = [degradation_title(name) for name in group.degradations]
    yield draw.picture(
        f"{prefix}experts",
        "Every expert on every degradation",
        "Accuracy in %, with the levels, images and seeds of the table above."
        + (f" On its own degradation an expert has the value of the {own[0]} row." if own else ""),
        f"Accuracy in percent. {_said(titles, columns, values, '.1f')}.",
        partial(heat_map, values, titles, columns),
        wide=len(columns) > _MANY,
    )


def _said(titles: list[str], columns: list[str], values: NDArray[np.float64], form: str) -> str:
    """The numbers of a map in words."""
    lines = (
        ", ".join(f"{column} {value:{form}}" for column, value in zip(columns, line, strict=True)) for line in values
    )
    return (
        "; ".join(f"{t}: {line}" for t, line in zip(titles, lines, strict=True))
        .replace("+nan", "nan")
        .replace("nan", MISSING)
    )
