"""Small multiples: a panel for each stage, for each dimension of a search, and the best of a search so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusiondistill.report.drawing import blank, short
from fusiondistill.report.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panel", "best_chart", "panel_charts", "scatter_charts"]

_STYLES: list[dict[str, Any]] = [
    {"color": COLOURS["orange"], "linestyle": (0, (3, 1.2))},
    {"color": COLOURS["blue"], "linestyle": "-"},
    {"color": COLOURS["purple"], "linestyle": (0, (1.2, 1.2))},
    {"color": COLOURS["green"], "linestyle": (0, (5, 1.5, 1.2, 1.5))},
]


@dataclass(frozen=True)
class Panel:
    """One small chart: its title and its lines (which metric, x [n], y [n])."""

    title: str
    lines: Sequence[tuple[int, Sequence[float], Sequence[float]]]


def panel_charts(panels: Sequence[Panel], labels: Sequence[str], x_label: str, *, share: bool, y_label: str) -> Figure:
    """Two panels in a row, in order; ``labels`` name the metrics, ``share`` gives all panels the same y axis."""
    from matplotlib.lines import Line2D

    rows = -(-len(panels) // 2)
    above = 0.35
    figure, all_axes = blank(
        1.45 * rows + above, count=len(panels), left=0.42, right=0.12, top=0.26, bottom=0.22, above=above
    )
    finite = [v for panel in panels for _, _, y in panel.lines for v in y if np.isfinite(v)]
    for axes, panel in zip(all_axes, panels, strict=True):
        for metric, x, y in panel.lines:
            marker = "o" if len(x) == 1 else None
            axes.plot(x, y, linewidth=0.9, alpha=0.85, marker=marker, ms=3, **_STYLES[_style(metric, labels)])
        axes.set_title(short(panel.title, 28), loc="left")
        axes.grid(axis="y")
        axes.margins(x=0.02)
        axes.locator_params(axis="x", integer=True, nbins=5)
        axes.locator_params(axis="y", nbins=4)
        if share and finite:
            pad = 0.05 * (max(finite) - min(finite)) + 0.5
            axes.set_ylim(min(finite) - pad, max(finite) + pad)
    figure.text(0.42 / 5, 1 - 0.12 / figure.get_figheight(), f"{y_label}, by {x_label}", va="center")
    if labels:
        handles = [Line2D([], [], linewidth=1.3, **_STYLES[_style(i, labels)]) for i in range(len(labels))]
        names = [short(label, 20) for label in labels]
        place: dict[str, Any] = {
            "loc": "upper right",
            "bbox_to_anchor": (1, 1),
            "borderaxespad": 0.0,
            "ncols": len(labels),
        }
        figure.legend(handles, names, frameon=False, handlelength=2.2, **place)
    return figure


def _style(metric: int, labels: Sequence[str]) -> int:
    """The number of a metric's line style; a single metric has the plainest one."""
    return metric % len(_STYLES) if labels else 1


def best_chart(by_seed: Mapping[int, Sequence[tuple[float, bool]]], x_label: str, y_label: str) -> Figure:
    """A panel per seed: trials (accuracy, stopped early) in their order, and the best finished one so far."""
    seeds = list(by_seed)
    rows = -(-len(seeds) // 2)
    figure, all_axes = blank(2.1 * rows, count=len(seeds), right=0.15, bottom=0.45, top=0.3)
    values = [accuracy for trials in by_seed.values() for accuracy, _ in trials]
    pad = 0.06 * (max(values) - min(values)) + 0.3
    for axes, seed in zip(all_axes, seeds, strict=True):
        numbers = np.arange(1, len(by_seed[seed]) + 1)
        heights = np.array([accuracy for accuracy, _ in by_seed[seed]])
        rings = np.array([early for _, early in by_seed[seed]])
        for chosen, face in ((~rings, COLOURS["blue"]), (rings, "none")):
            axes.plot(numbers[chosen], heights[chosen], "o", ms=4, mfc=face, mec=COLOURS["blue"], mew=1)
        best = np.fmax.accumulate(np.where(rings, np.nan, heights))
        axes.step(numbers, best, where="post", color=COLOURS["green"], linewidth=1.6)
        axes.set_title(f"{y_label}, seed {seed}" if len(seeds) > 1 else y_label, loc="left")
        axes.set_xlabel(x_label)
        axes.set_ylim(min(values) - pad, max(values) + pad)
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.grid(axis="y")
    return figure


def scatter_charts(panels: Sequence[tuple[str, Sequence[float | str]]], y: Sequence[float], hollow: Sequence[bool],
                   y_label: str) -> Figure:  # fmt: skip
    """One panel for each dimension (its name and values [n]), all over the same y [n]; ``hollow`` rings some points.

    Values that are text stand side by side, in their order.
    """
    rows = -(-len(panels) // 2)
    figure, all_axes = blank(2.1 * rows, count=len(panels), right=0.15, bottom=0.5, top=0.3)
    rings = np.asarray(hollow, dtype=bool)
    heights = np.asarray(y, dtype=np.float64)
    for axes, (name, raw) in zip(all_axes, panels, strict=True):
        choices = sorted({value for value in raw if isinstance(value, str)})
        values = np.array([choices.index(v) if isinstance(v, str) else v for v in raw], dtype=np.float64)
        for chosen, face in ((~rings, COLOURS["blue"]), (rings, "none")):
            axes.plot(values[chosen], heights[chosen], "o", ms=4, mfc=face, mec=COLOURS["blue"], mew=1)
        if choices:
            axes.set_xticks(range(len(choices)), [short(choice, max(4, 30 // len(choices))) for choice in choices])
            axes.set_xlim(-0.5, len(choices) - 0.5)
        elif _wide_range(values):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_xlabel(short(name, 34))
        axes.set_title(y_label, loc="left")
        axes.grid()
    return figure


def _wide_range(values: NDArray[np.float64]) -> bool:
    """Whether values are better drawn by their logarithms: all positive, over more than a factor of 20."""
    positive = values[np.isfinite(values) & (values > 0)]
    return bool(positive.size and positive.size == values.size and positive.max() > 20 * positive.min())
