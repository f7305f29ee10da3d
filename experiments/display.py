"""Progress that a person can follow: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from experiments.queue import Event
from experiments.rows import Plan
from experiments.stage import Stage

__all__ = ["Display"]


class Display:
    """Shows what runs, what waits, epoch and accuracy of each, and the time left."""

    def __init__(self, plan: Plan, stored: set[str]) -> None:
        self.plan = plan
        self.missing = {s.digest: s for s in plan.stages if s.digest not in stored}
        self.total = len(self.missing)
        self.work = sum(stage.work for stage in self.missing.values())
        self.finished_work = 0.0
        self.running: dict[str, tuple[Stage, dict[str, Any]]] = {}
        self.failed = 0
        self.began: float | None = None
        self.spoken: dict[str, float] = {}
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
        """A line that stays."""
        if self.live:
            self.live.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def note(self, stage: Stage, event: Event) -> None:
        """Take in news about a stage."""
        self.began = self.began or time.monotonic()
        name = self.plan.labels[stage.digest]
        if event.kind == "started":
            self.running[event.digest] = (stage, {})
            if not self.live and stage.kind in ("train", "search"):
                self.say(f"{self._clock()} {name}: started on {event.worker}")
        elif event.kind == "progress":
            self.running[event.digest] = (stage, event.facts)
            if not self.live and self._due(event):
                self.say(f"{self._clock()} {name}: {_progress(event.facts)}")
        else:
            _, facts = self.running.pop(event.digest, (stage, {}))
            self._ended(stage, event, name, facts)

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
        if stage.kind == "evaluate" and not self._due_evaluation():
            return
        detail = f" ({_progress(facts)})" if facts else ""
        self.say(f"{self._clock()} {name}: done{detail}; {done} of {self.total} stages, {self._left()}")

    def _due(self, event: Event) -> bool:
        """Plain lines: one per stage every ten seconds, and one that says where a resumed stage goes on."""
        now = time.monotonic()
        if "resumed" in event.facts or now - self.spoken.get(event.digest, 0.0) >= 10:
            self.spoken[event.digest] = now
            return "resumed" in event.facts or event.facts.get("epoch", 1) > 0
        return False

    def _due_evaluation(self) -> bool:
        """Evaluations are many and short: a line every few seconds, and one for the last."""
        now = time.monotonic()
        if now - self.spoken.get("evaluate", 0.0) < 5 and self.missing:
            return False
        self.spoken["evaluate"] = now
        return True

    def _clock(self) -> str:
        return time.strftime("%H:%M:%S")

    def _left(self) -> str:
        """An estimate from the work done so far; nothing is claimed before a twentieth is done."""
        done = self.finished_work
        for stage, facts in self.running.values():
            if facts.get("epochs"):
                done += stage.work * facts["epoch"] / facts["epochs"]
        if self.began is None or done < 0.05 * self.work:
            return "time left unknown"
        seconds = (time.monotonic() - self.began) * (self.work - done) / done
        return f"about {_duration(max(0.0, seconds))} left"

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        done = self.total - len(self.missing)
        waiting = [s for d, s in self.missing.items() if d not in self.running]
        table = Table(
            title=f"{self.plan.config.experiment}: {done} of {self.total} stages, {self._left()}", expand=False
        )
        for column in ("stage", "epoch", "validation", "loss"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for stage, facts in list(self.running.values()):
            epoch = f"{int(facts['epoch'])}/{int(facts['epochs'])}" if facts.get("epochs") else ""
            accuracy = f"{100 * facts['validation']:.1f} %" if "validation" in facts else ""
            loss = f"{facts['loss']:.3f}" if "loss" in facts else ""
            table.add_row(Text(self.plan.labels[stage.digest]), epoch, accuracy, loss)
        if waiting:
            names = ", ".join(dict.fromkeys(self.plan.labels[s.digest] for s in waiting if s.kind != "evaluate"))
            count = sum(s.kind == "evaluate" for s in waiting)
            rest = f"{count} evaluations" if count else ""
            table.add_section()
            table.add_row(Text("waiting: " + "; ".join(t for t in (names, rest) if t), style="dim"), "", "", "")
        return table


def _progress(facts: dict[str, Any]) -> str:
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


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
