"""Draws numbers as matplotlib figures, and renders these as PNG and SVG bytes that are the same every time.

Matplotlib is imported by the functions that need it; figures are drawn without pyplot and its global state.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusiondistill import NAME
from fusiondistill.report.style import COLOURS, LineStyle
from fusiondistill.report.words import MISSING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Series", "blank", "heat_map", "inlined", "labelled_points", "line_chart", "rendered", "settings", "short",
    "spread",
]  # fmt: skip

_WIDTH = 5.0  # inches; a phone shows it at about its natural size
_FONT = 9.0  # points
_LABEL_FONT = 8.2
_UPRIGHT = 7  # columns of a map whose titles fit side by side
_LABELS = 1.95  # inches kept for the labels at the right


@dataclass(frozen=True)
class Series:
    """One line of a chart: x and y [n], the lowest and highest of the seeds where there are several, and its label.

    ``dots`` marks each x, since nothing was measured between them.
    """

    label: str
    style: LineStyle
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    dots: bool = False


def settings() -> AbstractContextManager[None]:
    """The context in which figures are drawn and rendered: fonts, colours, and bytes that depend on nothing else."""
    import matplotlib as mpl

    return mpl.rc_context(
        {
            "font.family": ["sans-serif"],
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": _FONT,
            "text.color": COLOURS["ink"],
            "text.parse_math": False,  # a name with two dollar signs is a name
            "axes.edgecolor": COLOURS["muted"],
            "axes.labelcolor": COLOURS["ink"],
            "axes.titlesize": _FONT,
            "axes.titlepad": 7.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.linewidth": 0.7,
            "grid.color": COLOURS["rule"],
            "grid.linewidth": 0.6,
            "xtick.color": COLOURS["muted"],
            "ytick.color": COLOURS["muted"],
            "xtick.labelcolor": COLOURS["ink"],
            "ytick.labelcolor": COLOURS["ink"],
            "figure.facecolor": COLOURS["paper"],
            "axes.facecolor": "none",
            "svg.fonttype": "none",
            "svg.hashsalt": NAME,
        }
    )


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    limits: tuple[float, float] | None = None,
    *,
    logarithmic: bool = False,
) -> Figure:
    """Lines with their labels at the right end, spread so that none covers another; bands from low to high.

    The first x stands at the left, so x that falls makes an axis that falls. A logarithmic axis names each x.
    """
    height = max(3.5, 0.17 * len(series) + 0.7)
    figure, (axes,) = blank(height, right=_LABELS)
    for one in series:
        colour = COLOURS[one.style.colour]
        if one.low is not None and one.high is not None:
            axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.14, linewidth=0)
        marker = "o" if one.dots or len(one.x) == 1 else None
        size = 2.2 if len(one.x) > 1 else 3
        axes.plot(
            one.x, one.y, color=colour, linestyle=one.style.dashes, linewidth=one.style.width, marker=marker, ms=size
        )
    axes.set_xlabel(short(x_label, 44))
    axes.set_title(short(y_label, 44), loc="left")
    if logarithmic and series:
        axes.set_xscale("log")
        axes.set_xticks(series[0].x, [f"{value:g}" for value in series[0].x], minor=False)
        axes.set_xticks([], minor=True)
    axes.margins(x=0.01)
    axes.grid(axis="y")
    if series and series[0].x[0] > series[0].x[-1]:
        axes.invert_xaxis()
    if limits:
        axes.set_ylim(*limits)
    _label_ends(axes, series)
    return figure


def heat_map(
    values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], *, signed: bool = False
) -> Figure:
    """A grid of numbers, dark for low and light for high; NaN is a missing cell. values: [rows, columns].

    ``signed``: numbers with their sign, orange below zero and purple above (both told apart by any colour vision).
    """
    import matplotlib as mpl

    names = [short(name, 26) for name in rows]
    slanted = len(columns) > _UPRIGHT
    titles = [short(name, 20) if slanted else short(name, 14) for name in columns]
    titles = [name.replace("+", "+\n" if len(columns) > 4 and not slanted else "+") for name in titles]
    left, top, right = 0.35 + 0.068 * max(map(len, names)), 0.42, 0.1
    if slanted:
        top, right = 0.2 + 0.045 * max(map(len, titles)), 0.6
    width = max(_WIDTH, left + right + 0.52 * len(columns))
    height = 0.34 * len(rows) + top + 0.05
    figure, (axes,) = blank(height, left=left, right=right, top=top, bottom=0.05, width=width)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    colours = mpl.colormaps["PuOr" if signed else "cividis"]
    most = max(abs(low), abs(high), 1e-9)
    shade = 0.5 + 0.42 * values / most if signed else (values - low) / max(high - low, 1e-9)
    for (i, j), value in np.ndenumerate(values):
        missing = not np.isfinite(value)
        face = "none" if missing else colours(shade[i, j])
        axes.add_patch(mpl.patches.Rectangle((j + 0.02, i + 0.03), 0.96, 0.94, facecolor=face, linewidth=0))
        red, green, blue, _ = colours(shade[i, j])
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        colour = COLOURS["ink"] if missing else "#ffffff" if dark else "#000000"
        text = MISSING if missing else f"{value:+z.1f}" if signed else f"{value:.1f}"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    slant: dict[str, Any] = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(np.arange(len(columns)) + 0.5, titles, **slant)
    axes.set_yticks(np.arange(len(rows)) + 0.5, names)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def labelled_points(points: Sequence[tuple[str, LineStyle, float, float]], x_label: str, y_label: str) -> Figure:
    """Points (label, style, x, y) with their labels at the right, joined to them by thin lines."""
    figure, (axes,) = blank(max(3.5, 0.17 * len(points) + 0.7), right=_LABELS)
    for _, style, x, y in points:
        axes.plot([x], [y], "o", color=COLOURS[style.colour], ms=5.5, mew=0)
    axes.set_xlabel(x_label)
    axes.set_title(y_label, loc="left")
    axes.margins(0.08)
    axes.grid()
    _label_ends(axes, [Series(label, style, np.array([x]), np.array([y])) for label, style, x, y in points])
    return figure


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least ``gap`` apart, as close to those wanted as possible (least squares), in low..high if they fit.

    The order of the values is kept. With z = place - rank * gap the condition is that z does not fall: isotonic
    regression, by pooling neighbours.

    >>> spread([1.0, 1.0], 2.0, 0.0, 10.0)
    [0.0, 2.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[tuple[float, int]] = []  # (sum, how many)
    for rank, i in enumerate(order):
        total, size = wanted[i] - rank * gap, 1
        while pools and pools[-1][0] / pools[-1][1] >= total / size:
            before = pools.pop()
            total, size = total + before[0], size + before[1]
        pools.append((total, size))
    free = [total / size for total, size in pools for _ in range(size)]
    most = max(low, high - gap * (len(wanted) - 1))
    places = [0.0] * len(wanted)
    for rank, (i, z) in enumerate(zip(order, free, strict=True)):
        places[i] = min(max(z, low), most) + rank * gap
    return places


def rendered(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as (SVG, PNG at 160 dots per inch); within :func:`settings`."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=160)
    return svg.getvalue(), png.getvalue()


def inlined(svg: bytes, prefix: str, alt: str) -> str:
    """The SVG for a page: with its own ids, colours as CSS variables, the page's font and a text alternative.

    A wide one gets a smallest width.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=href="#)', prefix, text)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    for name, colour in COLOURS.items():
        text = text.replace(f": {colour}", f": var(--{name})")
    text = text.replace("'DejaVu Sans'", "var(--font)")
    opening = re.match(r"<svg[^>]*>", text)
    view = re.search(r'viewBox="([^"]*)"', text)
    assert opening and view
    size = float(view[1].split()[2]) / 12  # in rem: points to twelfths
    style = f' style="min-width: {0.75 * size:.1f}rem; max-width: {1.06 * size:.1f}rem"' if size > 32 else ""
    head = f'<svg viewBox="{view[1]}" role="img" aria-label="{html.escape(alt)}"{style}>'
    return head + text[opening.end() :].strip()


def blank(
    height: float,
    *,
    count: int = 1,
    left: float = 0.42,
    right: float = 0.1,
    top: float = 0.28,
    bottom: float = 0.46,
    above: float = 0.0,
    width: float = _WIDTH,
) -> tuple[Figure, list[Axes]]:
    """A figure with axes in up to two columns; the margins, in inches, are round each of them, ``above`` over all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    columns, rows = min(count, 2), -(-count // 2)
    wide, high = width / columns, (height - above) / rows
    boxes = [((i % columns) * wide, height - above - (i // columns + 1) * high) for i in range(count)]
    axes = [
        figure.add_axes(
            ((x + left) / width, (y + bottom) / height, (wide - left - right) / width, (high - top - bottom) / height)
        )
        for x, y in boxes
    ]
    return figure, axes


def _label_ends(axes: Axes, series: Sequence[Series]) -> None:
    """Write each label beside its line's end, joined to it by a short stroke in the line's own style."""
    drawn = [one for one in series if np.isfinite(one.y).any()]
    low, high = axes.get_ylim()
    inches = axes.get_position().height * axes.figure.get_size_inches()[1]  # type: ignore[union-attr]
    width = axes.get_position().width * axes.figure.get_size_inches()[0]  # type: ignore[union-attr]
    gap = 1.3 * _LABEL_FONT / 72 / inches * (high - low)
    ends = [float(one.y[np.isfinite(one.y)][-1]) for one in drawn]
    places = spread(ends, gap, low + gap / 2, high - gap / 2)
    right = axes.get_xlim()[1]
    across = axes.get_yaxis_transform()
    bend, stop = 1 + 0.1 / width, 1 + 0.32 / width
    for one, end, place in zip(drawn, ends, places, strict=True):
        colour, start = COLOURS[one.style.colour], float(one.x[np.isfinite(one.y)][-1])
        thin: dict[str, Any] = {"color": colour, "linewidth": 0.5, "clip_on": False}
        thick: dict[str, Any] = {**thin, "linestyle": one.style.dashes, "linewidth": one.style.width}
        thick = thin if len(one.x) == 1 else thick
        axes.plot([start, right], [end, end], **thin)
        axes.plot([1.0, bend], [end, place], transform=across, **thin)
        axes.plot([bend, stop], [place, place], transform=across, **thick)
        axes.text(stop + 0.05 / width, place, short(one.label, 24), size=_LABEL_FONT, transform=across, va="center")
    axes.set_ylim(low, high)
    axes.set_xlim(axes.get_xlim()[0], right)


def short(text: str, most: int) -> str:
    """The text, cut with an ellipsis where it is too long."""
    return text if len(text) <= most else text[: most - 1] + "…"
