"""Progress that a person can follow: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from fusiondistill.counting import counted
from fusiondistill_runner.driving.queue import Event
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import JUDGING
from fusiondistill_runner.planning.stage import Stage

__all__ = ["Display", "Listener", "duration", "progress", "running_table"]


_KEPT = ("loss", "validation")
"""What the line about a stage that is done says of it: with the rest it would not fit 80 columns."""

Listener = Callable[[Stage, str, Event], None]
"""Called with a stage, its label, and the news about it."""


@dataclass(frozen=True)
class Running:
    """A stage that a worker is at."""

    stage: Stage
    worker: str
    since: float
    """Seconds since 1970."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The last news about it."""


class Display:
    """Shows the running stages with epoch and accuracy, the waiting ones, and the time left.

    Args:
        plan: of the run.
        stored: digests of the stages that need no work.

    Attributes:
        listeners: called with all news; they must return at once.
    """

    def __init__(self, plan: Plan, stored: set[str]) -> None:
        self.plan = plan
        self.listeners: list[Listener] = []
        self.missing = {s.digest: s for s in plan.stages if s.digest not in stored}
        self.total = len(self.missing)
        self.work = sum(stage.work for stage in self.missing.values())
        self.finished_work = 0.0
        self.running: dict[str, Running] = {}
        self.failed = 0
        self.began: float | None = None
        self.spoken: dict[str, float] = {}
        self.noted: set[str] = set()
        self.live: Any = None

    def __enter__(self) -> Display:
        if sys.stdout.isatty() and self.total:
            from rich.live import Live

            self.live = Live(get_renderable=self._table, refresh_per_second=4, transient=True)
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)
            self.live = None

    def say(self, text: str) -> None:
        """Print a line, above the live table if there is one."""
        if self.live:
            self.live.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def note(self, stage: Stage, event: Event) -> None:
        """Take in news about a stage."""
        self.began = self.began or time.monotonic()
        name = self.plan.labels[stage.digest]
        if event.kind == "started":
            self.running[event.digest] = Running(stage, event.worker, time.time())
            if not self.live and stage.spec.training:
                self.say(f"{self._clock()} {name}: started on {event.worker}")
        elif event.kind == "progress" and "note" in event.facts:
            if (text := event.facts["note"]) not in self.noted:
                self.noted.add(text)
                self.say(f"{self._clock()} {name}: {text}")
        elif event.kind == "progress":
            before = self.running.get(event.digest) or Running(stage, event.worker, time.time())
            self.running[event.digest] = replace(before, facts=event.facts)
            if not self.live and self._due(event):
                self.say(f"{self._clock()} {name}: {progress(event.facts)}")
        else:
            ended = self.running.pop(event.digest, None)
            self._ended(stage, event, name, ended.facts if ended else {})
        for listener in self.listeners:
            listener(stage, name, event)

    def _ended(self, stage: Stage, event: Event, name: str, facts: dict[str, Any]) -> None:
        if event.kind == "lost":
            self.say(f"{self._clock()} {name}: {event.facts['error'].splitlines()[-1]}; trying again")
            return
        self.missing.pop(event.digest, None)
        self.finished_work += stage.work
        if event.kind == "failed":
            self.failed += 1
            self.say(f"{self._clock()} {name}: FAILED\n{event.facts['error']}")
            return
        done = self.total - len(self.missing)
        if stage.kind in JUDGING and not self._due_evaluation():
            return
        detail = progress({name: facts[name] for name in _KEPT if name in facts})
        detail = f" ({detail})" if detail else ""
        self.say(f"{self._clock()} {name}: done{detail}; {done} of {counted(self.total, 'stage')}, {self._left()}")

    def _due(self, event: Event) -> bool:
        """Whether a plain line is due: every ten seconds for each stage, and once where a resumed stage goes on."""
        now = time.monotonic()
        if "resumed" in event.facts or now - self.spoken.get(event.digest, 0.0) >= 10:
            self.spoken[event.digest] = now
            return "resumed" in event.facts or event.facts.get("epoch", 1) > 0
        return False

    def _due_evaluation(self) -> bool:
        """Whether a line about the many short evaluations is due: every five seconds, and after the last stage."""
        now = time.monotonic()
        if now - self.spoken.get("evaluate", 0.0) < 5 and self.missing:
            return False
        self.spoken["evaluate"] = now
        return True

    def _clock(self) -> str:
        return time.strftime("%H:%M:%S")

    def _left(self) -> str:
        seconds = self._seconds_left()
        return "time left unknown" if seconds is None else f"about {duration(seconds)} left"

    def _seconds_left(self) -> float | None:
        """An estimate from the work done so far; None before a twentieth is done."""
        done = self.finished_work
        for one in list(self.running.values()):
            if one.facts.get("epochs"):
                done += one.stage.work * one.facts["epoch"] / one.facts["epochs"]
        if self.began is None or done < 0.05 * self.work:
            return None
        return max(0.0, (time.monotonic() - self.began) * (self.work - done) / done)

    def snapshot(self) -> dict[str, Any]:
        """The state of the run for ``status.json``: JSON-able; may be called from any thread."""
        keep = ("epoch", "epochs", "unit", "loss", "validation")
        running = [
            {
                "directory": one.stage.directory,
                "worker": one.worker,
                "since": one.since,
                **{name: value for name, value in one.facts.items() if name in keep},
            }
            for one in list(self.running.values())
        ]
        missing = len(self.missing)
        left = self._seconds_left()
        return {
            "running": running,
            "finished": self.total - missing,
            "failed": self.failed,
            "complete": not (missing or self.failed),
            "seconds_left": None if left is None else round(left),
        }

    def _table(self) -> Any:
        from rich.text import Text

        done = self.total - len(self.missing)
        waiting = [s for d, s in self.missing.items() if d not in self.running]
        title = f"{self.plan.config.experiment}: {done} of {counted(self.total, 'stage')}, {self._left()}"
        running = [(self.plan.labels[one.stage.digest], one.worker, one.facts) for one in list(self.running.values())]
        table = running_table(title, running)
        if waiting:
            names = ", ".join(dict.fromkeys(self.plan.labels[s.digest] for s in waiting if s.kind not in JUDGING))
            count = sum(s.kind in JUDGING for s in waiting)
            rest = f"{count} evaluations" if count else ""
            table.add_section()
            table.add_row(Text("waiting: " + "; ".join(t for t in (names, rest) if t), style="dim"))
        return table


def running_table(title: str, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Any:
    """The running stages as a rich table; a row is (the stage's label, its worker, the last news about it)."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), expand=False)
    for column in ("stage", "worker", "epoch", "validation", "loss"):
        table.add_column(column, justify="left" if column in ("stage", "worker") else "right")
    for name, worker, facts in rows:
        epoch = f"{int(facts['epoch'])}/{int(facts['epochs'])}" if facts.get("epochs") else ""
        accuracy = f"{100 * facts['validation']:.1f} %" if "validation" in facts else ""
        loss = f"{facts['loss']:.3f}" if "loss" in facts else ""
        table.add_row(Text(name), Text(worker), epoch, accuracy, loss)
    return table


def progress(facts: Mapping[str, Any]) -> str:
    """How far a stage is, in words, by the last news about it."""
    parts = []
    if facts.get("epochs"):
        parts.append(f"{facts.get('unit', 'epoch')} {int(facts['epoch'])}/{int(facts['epochs'])}")
    if "resumed" in facts:
        parts.append("found stored, going on from there")
    if "loss" in facts:
        parts.append(f"loss {facts['loss']:.3f}")
    if "validation" in facts:
        parts.append(f"validation {100 * facts['validation']:.1f} %")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words, like 42 s, 17 min or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
