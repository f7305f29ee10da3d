"""The chart of stages on workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusiondistill.report.style import COLOURS
from fusiondistill.report.timeline import Clock, Ran, clock, lanes, waiting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["lane_chart", "lane_names"]

_LANES = 40  # rows that a chart has at most
_KINDS = {"train": "blue", "search": "orange", "fuse": "ink", "evaluate": "sky"}
_SPARE = ("vermilion", "purple", "green", "grey")


def lane_chart(stages: Sequence[Ran]) -> Figure:
    """Bars of stages in a lane for each worker, and below how many stages waited for one."""
    from matplotlib.figure import Figure

    at, by_worker = clock(stages), lanes(stages)
    names = lane_names(list(by_worker))
    shown = dict(list(by_worker.items())[:_LANES])
    unit, unit_name = _unit(max(at(one.finished) for one in stages))
    lane_inches, wide = 0.24 * len(shown), 7.4
    height = lane_inches + 1.75
    figure = Figure(figsize=(wide, height))
    left = 0.4 + 0.065 * max(len(names[worker]) for worker in shown)
    box = (left / wide, (wide - left - 0.2) / wide)
    above = figure.add_axes((box[0], 1.3 / height, box[1], lane_inches / height))
    below = figure.add_axes((box[0], 0.45 / height, box[1], 0.55 / height), sharex=above)
    colours = _colours(stages)
    _bars(above, list(shown.values()), at, unit, colours)
    above.set_ylim(len(shown) - 0.5, -0.5)
    above.set_yticks(range(len(shown)), [names[worker] for worker in shown])
    above.tick_params(axis="y", length=0)
    above.tick_params(axis="x", labelbottom=False)
    above.spines["left"].set_visible(False)
    above.grid(axis="x")
    more = len(by_worker) - len(shown)
    _legend(above, colours, f"{more} workers not shown" if more else "")
    _waiting(below, stages, at, unit)
    below.set_xlabel(f"{unit_name} since the first start")
    for axes in (above, below):
        for begin, _ in at.pauses:
            axes.axvline(at(begin) / unit, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)))
    return figure


def _bars(axes: Axes, by_lane: Sequence[Sequence[Ran]], at: Clock, unit: float, colours: Mapping[str, str]) -> None:
    """A bar for each stage; those of a kind in a lane are drawn as one, since there may be thousands."""
    end = max(at(one.finished) for of in by_lane for one in of)
    for i, of in enumerate(by_lane):
        for kind, colour in colours.items():
            bars = [(at(one.started), at(one.finished) - at(one.started)) for one in of if one.kind == kind]
            if bars:
                axes.broken_barh(
                    [(start / unit, length / unit) for start, length in bars],
                    (i - 0.36, 0.72),
                    facecolor=COLOURS[colour],
                    edgecolor=COLOURS["paper"],
                    linewidth=[0.4 if length > end / 100 else 0.0 for _, length in bars],  # would cover a short bar
                )


def lane_names(workers: Sequence[str]) -> dict[str, str]:
    """Short names for workers: what stands before the first blank, numbered where several processes share it."""
    found: dict[str, list[str]] = {}
    for worker in workers:
        found.setdefault(worker.split(" ")[0][:24] or "worker", []).append(worker)
    return {
        worker: name if len(of) == 1 else f"{name}, process {i + 1}"
        for name, of in found.items()
        for i, worker in enumerate(of)
    }


def _unit(seconds: float) -> tuple[float, str]:
    if seconds < 300:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def _colours(stages: Sequence[Ran]) -> dict[str, str]:
    kinds = list(dict.fromkeys(one.kind for one in stages))
    unknown = [kind for kind in kinds if kind not in _KINDS]
    spare = {kind: _SPARE[i % len(_SPARE)] for i, kind in enumerate(unknown)}
    return {kind: _KINDS.get(kind) or spare[kind] for kind in sorted(kinds, key=lambda k: [*_KINDS, *unknown].index(k))}


def _legend(axes: Axes, colours: Mapping[str, str], more: str) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=COLOURS[colour], label=kind[:24]) for kind, colour in colours.items()]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2, "ncols": 6}
    axes.legend(handles=handles, frameon=False, handlelength=0.9, handleheight=0.9, columnspacing=1.4, **place)
    if more:
        axes.set_title(more, loc="right")


def _waiting(axes: Axes, stages: Sequence[Ran], at: Clock, unit: float) -> None:
    moments, counts = waiting(stages, at)
    times = [moment / unit for moment in moments]
    axes.fill_between(times, counts, step="post", color=COLOURS["muted"], alpha=0.35, linewidth=0)
    axes.step(times, counts, where="post", color=COLOURS["muted"], linewidth=0.9)
    axes.set_title("stages waiting for a worker", loc="left")
    most = max([*counts, 1])
    axes.set_ylim(0, 1.15 * most)
    axes.set_yticks([0, most])
