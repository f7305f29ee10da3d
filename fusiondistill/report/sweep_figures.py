"""The figures of a sweep over numbers: the average accuracy of each row against the value of a key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fusiondistill.report.drawing import line_chart
from fusiondistill.report.figures import Picture, Pictures, seeds_line, seeds_text
from fusiondistill.report.groups import Group
from fusiondistill.report.style import line_styles
from fusiondistill.report.words import printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["sweep_pictures"]

_FEWEST = 3
"""Values of a key from which on a line says more than two numbers do."""
_KEYS = 2
"""The most keys of a sweep that figures can show: one along the axis, a figure for each value of the other."""
_DECADES = 8.0
"""Largest over smallest value from which on the axis is logarithmic."""


class _Axis(NamedTuple):
    """A key of a sweep: experiment -> its value in words, and as a number where all are numbers."""

    key: str
    texts: dict[str, str]
    values: dict[str, float]


def sweep_pictures(draw: Pictures, axes: pa.Table | None, groups: Sequence[Group]) -> Iterator[Picture]:
    """Figures of each sweep in which one or two keys vary, one of them over at least three numbers.

    Args:
        axes: rows (sweep, experiment, key, text: str, value: float64, null where it is no number).
        groups: the tables of the points.
    """
    for keys in _sweeps(axes):
        along = max(keys, key=lambda axis: len(set(axis.values.values())))
        if len(keys) > _KEYS or len(set(along.values.values())) < _FEWEST:
            continue
        others = [axis for axis in keys if axis is not along]
        parts: dict[tuple[str, ...], list[Group]] = {}
        for group in groups:
            if group.experiment in along.values:
                fixed = tuple(f"{axis.key} {axis.texts[group.experiment]}" for axis in others)
                parts.setdefault((group.dataset, *fixed), []).append(group)
        for (_, *told), points in parts.items():
            if len({along.values[point.experiment] for point in points}) >= _FEWEST:
                yield _picture(draw, along, ", ".join(told), points)


def _sweeps(axes: pa.Table | None) -> Iterator[list[_Axis]]:
    """The keys of each sweep."""
    found: dict[str, dict[str, _Axis]] = {}
    for row in axes.to_pylist() if axes is not None else ():
        axis = found.setdefault(row["sweep"], {}).setdefault(row["key"], _Axis(row["key"], {}, {}))
        axis.texts[row["experiment"]] = row["text"].strip('"')
        if row["value"] is not None:
            axis.values[row["experiment"]] = row["value"]
    for keys in found.values():
        yield [axis if len(axis.values) == len(axis.texts) else axis._replace(values={}) for axis in keys.values()]


def _picture(draw: Pictures, along: _Axis, fixed: str, points: Sequence[Group]) -> Picture:
    points = sorted(points, key=lambda point: along.values[point.experiment])
    x = np.array([along.values[point.experiment] for point in points])
    rows = {row.method: row.about for point in points for row in point.rows if not row.is_expert}
    styles = line_styles([method for point in points for method in point.methods])
    seeds = sorted({seed for point in points for seed in point.seeds})
    lines = []
    for method, about in rows.items():
        by_point = [{row.method: row.average.by_seed for row in point.rows}.get(method, {}) for point in points]
        values = np.array([[by_seed.get(seed, np.nan) for by_seed in by_point] for seed in seeds])
        values = values[np.isfinite(values).any(axis=1)]
        if len(values):
            lines.append(replace(seeds_line(about.name, styles[method], x, values), dots=True))
    said = "; ".join(f"{line.label}: {', '.join(f'{value:.1f}' for value in line.y)}" for line in lines)
    where = f" at {fixed}" if fixed else ""
    return draw.picture(
        f"sweep-{along.key}-{fixed}",
        printable(f"{along.key}{where}"),
        f"Average accuracy over the degradations at each value of {printable(along.key)}. "
        + seeds_text([len(seeds)] * len(lines)),
        f"Average accuracy in percent at {along.key} of {', '.join(f'{value:g}' for value in x)}{where}. {said}.",
        partial(line_chart, lines, printable(along.key), "average accuracy, %", logarithmic=_logarithmic(x.tolist())),
    )


def _logarithmic(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= _DECADES
