"""When which stage ran on which worker, as numbers: lanes, pauses of the whole run, waiting, the longest chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Clock", "Ran", "chain", "clock", "device_hours", "lanes", "ran", "waiting"]

_PAUSE = 60.0  # seconds without any stage that are cut out of the axis, if they are also a twentieth of the busy time


@dataclass(frozen=True)
class Ran:
    """One finished stage: when its last input was there, when it started and finished (Unix seconds), and where."""

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

    @property
    def waited(self) -> float:
        """Seconds between the last input and the start; 0 where there was no input to wait for."""
        return max(0.0, self.started - self.ready) if self.ready is not None else 0.0


def ran(timeline: pa.Table) -> list[Ran]:
    """The rows of a timeline in the order of their starts; those without times are left out."""
    names = list(Ran.__dataclass_fields__)
    known = (row for row in timeline.to_pylist() if row["started"] is not None)
    rows = [Ran(**{**{name: row[name] for name in names}, "device": row["device"] or ""}) for row in known]
    return sorted((row for row in rows if row.finished is not None), key=lambda row: (row.started, row.stage))


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


def waiting(stages: Sequence[Ran], at: Clock) -> tuple[list[float], list[int]]:
    """How many stages had all inputs and no worker yet: (seconds on the axis, count from there on)."""
    steps: dict[float, int] = {}
    for one in stages:
        if one.ready is not None and one.waited > 0:
            steps[at(one.ready)] = steps.get(at(one.ready), 0) + 1
            steps[at(one.started)] = steps.get(at(one.started), 0) - 1
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


def device_hours(stages: Sequence[Ran]) -> list[tuple[str, str, int, float]]:
    """(kind, device, stages, hours of the device), the most expensive first."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in stages:
        found.setdefault((one.kind, one.device), []).append(one.seconds or 0.0)
    rows = [(kind, device, len(spent), sum(spent) / 3600) for (kind, device), spent in found.items()]
    return sorted(rows, key=lambda row: (-row[3], row[:2]))
