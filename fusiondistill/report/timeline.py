"""When each stage ran on which worker: lanes, pauses of the run, waiting, the longest chain, and their chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fusiondistill.report.style import COLOURS

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Clock", "Ran", "chain", "clock", "lane_chart", "lane_names", "lanes", "ran", "waited", "waiting",
           "worker_hours"]  # fmt: skip

_LANES = 40  # rows that a chart has at most
_KINDS = {"train": "blue", "search": "orange", "fuse": "ink", "evaluate": "sky", "validate": "green"}
_SPARE = ("vermilion", "purple", "grey")
_PAUSE = 60.0  # seconds without any stage that are cut out of the axis, if they are also a twentieth of the busy time


@dataclass(frozen=True)
class Ran:
    """One finished stage: when its last input was stored, its last start and its end (Unix seconds), and where."""

    stage: str
    name: str
    kind: str
    seed: int
    worker: str
    device: str
    """Empty where the store has none: for a trial that was stopped early, and for a search."""
    ready: float | None
    started: float
    finished: float
    seconds: float
    """Of each of its workers, over all attempts."""
    workers: int
    gpus: float | None
    """Of a worker; None where the config does not say."""

    @property
    def earlier(self) -> float:
        """Seconds of a training's attempts before the last one."""
        return max(0.0, self.seconds - (self.finished - self.started)) if self.kind == "train" else 0.0


def ran(timeline: pa.Table) -> list[Ran]:
    """The rows of a timeline in the order of their starts, without those that have no times.

    A stage whose inputs an earlier run stored counts as ready at the first start.
    """
    names = list(Ran.__dataclass_fields__)
    known = [row for row in timeline.to_pylist() if None not in (row["started"], row["finished"])]
    first = min((row["started"] for row in known), default=0.0)
    rows = []
    for row in known:
        given = {"device": row["device"] or "", "workers": row.get("workers") or 1}
        given["ready"] = None if row["ready"] is None else max(row["ready"], first)
        rows.append(Ran(**{**{name: row.get(name) for name in names}, **given}))
    return sorted(rows, key=lambda row: (row.started, row.stage))


def lanes(stages: Sequence[Ran]) -> dict[str, list[Ran]]:
    """The stages of each worker in the order of their starts; workers in the order of their first stage."""
    found: dict[str, list[Ran]] = {}
    for one in sorted(stages, key=lambda one: (one.started, one.worker)):
        found.setdefault(one.worker, []).append(one)
    return found


@dataclass(frozen=True)
class Clock:
    """Seconds since the first start, without the pauses in which nothing ran: (where they were cut, how long)."""

    start: float
    pauses: tuple[tuple[float, float], ...]

    def __call__(self, moment: float) -> float:
        """Where a moment (Unix seconds) lies on the axis, in seconds; one within a pause lies at its cut."""
        cut = sum(min(length, max(0.0, moment - begin)) for begin, length in self.pauses)
        return moment - self.start - cut


def clock(stages: Sequence[Ran]) -> Clock:
    """The axis for these stages, without the long pauses of a run that was stopped and started again."""
    edges: list[tuple[float, float]] = []
    for one in sorted(stages, key=lambda one: one.started):
        if edges and one.started <= edges[-1][1]:
            edges[-1] = edges[-1][0], max(edges[-1][1], one.finished)
        else:
            edges.append((one.started, one.finished))
    busy = sum(end - begin for begin, end in edges)
    holes = [(a[1], b[0] - a[1]) for a, b in pairwise(edges)]
    pauses = tuple((begin, length) for begin, length in holes if length > max(_PAUSE, busy / 20))
    return Clock(edges[0][0] if edges else 0.0, pauses)


def waited(one: Ran, at: Clock) -> float:
    """Seconds for which a stage had all inputs and no worker, without pauses of the run and its own earlier attempts.

    0 without inputs.
    """
    return max(0.0, at(one.started) - at(one.ready) - one.earlier) if one.ready is not None else 0.0


def waiting(stages: Sequence[Ran], at: Clock) -> tuple[list[float], list[int]]:
    """How many stages had all inputs and no worker yet: (seconds on the axis, count from there on)."""
    steps: dict[float, int] = {}
    for one in stages:
        if (length := waited(one, at)) > 0:
            end = at(one.started)
            steps[end - length] = steps.get(end - length, 0) + 1
            steps[end] = steps.get(end, 0) - 1
    count, moments, counts = 0, [0.0], [0]
    for moment in sorted(steps):
        count += steps[moment]
        moments.append(moment)
        counts.append(count)
    return moments, counts


def chain(stages: Sequence[Ran]) -> list[Ran]:
    """The chain that the end waited for: from the stage that finished last back over last inputs; first to last.

    A stage's last input is the stage that finished when it became ready.
    """
    if not stages:
        return []
    ends = sorted(stages, key=lambda one: one.finished)
    found = [ends[-1]]
    while (ready := found[-1].ready) is not None:
        before = [one for one in ends if one not in found and abs(one.finished - ready) < 0.05]
        if not before:
            break
        found.append(min(before, key=lambda one: abs(one.finished - ready)))
    return found[::-1]


def worker_hours(stages: Sequence[Ran]) -> list[tuple[str, str, int, float, float | None]]:
    """(kind, device, stages, hours of workers, hours of GPUs where all say so), the most expensive first."""
    found: dict[tuple[str, str], list[Ran]] = {}
    for one in stages:
        found.setdefault((one.kind, one.device), []).append(one)
    rows = []
    for (kind, device), of in found.items():
        spent = [(one.seconds or 0.0) * one.workers / 3600 for one in of]
        gpus = [hours * one.gpus for hours, one in zip(spent, of, strict=True) if one.gpus is not None]
        rows.append((kind, device, len(of), sum(spent), sum(gpus) if len(gpus) == len(of) else None))
    return sorted(rows, key=lambda row: (-row[3], row[:2]))


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
    """Short names for workers: their first word, numbered where several workers share it."""
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
