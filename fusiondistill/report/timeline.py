"""When which stage ran on which worker, as numbers: lanes, pauses of the whole run, waiting, the longest chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Clock", "Ran", "chain", "clock", "lanes", "ran", "waited", "waiting", "worker_hours"]

_PAUSE = 60.0  # seconds without any stage that are cut out of the axis, if they are also a twentieth of the busy time


@dataclass(frozen=True)
class Ran:
    """One finished stage: when its last input was there, its last start and its end (Unix seconds), and where."""

    stage: str
    name: str
    kind: str
    seed: int
    worker: str
    device: str
    """Empty where nobody noted it: of a trial that was stopped early, of the search itself."""
    ready: float | None
    started: float
    finished: float
    seconds: float
    """That it cost each of its workers, in however many attempts."""
    workers: int
    gpus: float | None
    """Of a worker; None where nobody said."""

    @property
    def earlier(self) -> float:
        """Seconds of a training that went into attempts before the last one."""
        return max(0.0, self.seconds - (self.finished - self.started)) if self.kind == "train" else 0.0


def ran(timeline: pa.Table) -> list[Ran]:
    """The rows of a timeline in the order of their starts; those without times are left out.

    What an earlier run left was ready at the first start.
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
    """The stages of each worker in the order of their starts; workers in the order in which they got to work."""
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
    """The axis for these stages: what was stopped and started again has no long hole in it."""
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

    0 where there was no input to wait for.
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
    """What the end had to wait for: from the stage that finished last back over each one's last input, first to last.

    The input is the stage that finished when the next one became ready.
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
