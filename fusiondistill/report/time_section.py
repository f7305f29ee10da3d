"""The section about time: stages on workers, the chain that the end waited for, and worker-hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusiondistill.counting import counted
from fusiondistill.report.blocks import Block, Text, figures, named, plain_table
from fusiondistill.report.figures import Picture, Pictures
from fusiondistill.report.methods import Methods
from fusiondistill.report.timeline import Clock, Ran, chain, clock, lane_chart, lanes, ran, waited, worker_hours
from fusiondistill.report.words import MISSING, printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["duration", "time_blocks"]


def time_blocks(
    timeline: pa.Table, draw: Pictures, methods: Methods, drawn: bool
) -> tuple[list[Block], Sequence[Picture]]:
    """The section's content and, if ``drawn``, its figure."""
    stages = ran(timeline)
    if not stages:
        return [], ()
    at = clock(stages)
    end = max(at(one.finished) for one in stages)
    pauses = [length for _, length in at.pauses]
    workers = counted(len(lanes(stages)), "worker")
    text = f"{counted(len(stages), 'stage')} on {workers}, {duration(end)} from the first start to the last end"
    if pauses:
        text += (
            f" without {counted(len(pauses), 'pause')} ({duration(sum(pauses))}) in which nothing ran, the dashed line"
        )
        text += "s" if len(pauses) > 1 else ""
    pictures = [_picture(stages, at, draw)] if drawn else []
    return [
        Text(f"{text}."),
        *figures(pictures),
        *named("Worker-hours", _hours(stages)),
        *named("The chain that took longest", _chain(stages, at, methods)),
    ], pictures


def _picture(stages: Sequence[Ran], at: Clock, draw: Pictures) -> Picture:
    by_kind = {kind: sum(one.kind == kind for one in stages) for kind in dict.fromkeys(one.kind for one in stages)}
    kinds = ", ".join(f"{n} {printable(kind)}" for kind, n in by_kind.items())
    most, longest = max(((one, waited(one, at)) for one in stages), key=lambda of: of[1])
    resumed = sum(one.earlier > 1 for one in stages)
    alt = f"Stages on {counted(len(lanes(stages)), 'worker')} over time: {kinds}."
    if longest:
        alt += f" The longest wait for a worker: {printable(most.name)}, seed {most.seed}, {duration(longest)}."
    return draw.picture(
        "time",
        "Stages on workers",
        "A row per worker process, a bar per stage. Below: how many stages had all their inputs and waited for a "
        "worker. A gap in a row while nothing waits: the worker had nothing to do until the next input was finished."
        + (f" {_resumed(resumed)}" if resumed else ""),
        alt,
        lambda: lane_chart(stages),
        wide=True,
    )


def _resumed(count: int) -> str:
    stages = counted(count, "training was resumed and is", "trainings were resumed and are")
    return f"{stages} drawn from the last start; where the earlier epochs ran is not on record."


def _hours(stages: Sequence[Ran]) -> list[Block]:
    """The cost of each kind of stage in worker-hours and, where the config says a worker's GPUs, in GPU-hours."""
    rows = worker_hours(stages)
    gpus = any(row[4] for row in rows)
    body: list[Sequence[object]] = []
    for kind, device, n, hours, of_gpus in rows:
        shown = [MISSING if of_gpus is None else _hours_text(of_gpus)] if gpus else []
        body.append([kind, device or MISSING, n, _hours_text(hours), *shown])
    if len(rows) > 1:
        known = [row[4] for row in rows if row[4] is not None]
        all_gpus = [_hours_text(sum(known)) if len(known) == len(rows) else MISSING] if gpus else []
        body.append(["all", "", sum(row[2] for row in rows), _hours_text(sum(row[3] for row in rows)), *all_gpus])
    titles = ["kind of stage", "device", "stages", "worker-hours", *(["GPU-hours"] if gpus else [])]
    text = "A worker is a process with its share of a device; a data-parallel training takes several at once."
    text += " GPU-hours: times the GPUs that a worker reserves." if gpus else ""
    return [plain_table(titles, body, "Worker-hours", texts=2), Text(text)]


def _hours_text(hours: float) -> str:
    return f"{hours:.2f}" if hours >= 0.995 else f"{hours:.3f}"


def _chain(stages: Sequence[Ran], at: Clock, methods: Methods) -> list[Block]:
    """The stages of the chain that the end waited for, with their waits."""
    links = chain(stages)
    body, before = [], None
    for one in links:
        after = _stage_title(before, methods) if before else MISSING
        queued = MISSING if one.ready is None else duration(waited(one, at))
        body.append([_stage_title(one, methods), after, queued, duration(one.finished - one.started + one.earlier)])
        before = one
    text = (
        "Back from the stage that finished last, over the input that each one got last: the run could not have ended "
        "earlier without one of these being faster or waiting less for a worker."
    )
    titles = ["stage", "its last input", "then waited for a worker", "ran"]
    return [plain_table(titles, body, "The chain that took longest", texts=2), Text(text)]


def _stage_title(one: Ran, methods: Methods) -> str:
    kind, _, rest = one.name.partition("-")
    name = f"Evaluate {rest}" if one.kind == "evaluate" and kind == "evaluate" else methods.name(one.name)
    return f"{name}, seed {one.seed}"


def duration(seconds: float) -> str:
    """Seconds in words: "35 s", "4 min 10 s", "2 h 05 min".

    >>> duration(250)
    '4 min 10 s'
    """
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
