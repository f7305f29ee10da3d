"""The queue of ready stages, outside the workers that pull from it.

:class:`StageQueue` is a plain class; the driver runs it as a Ray actor. It counts attempts, so that a stage that kills
its worker is given up after a few.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from fusiondistill_runner.planning.stage import Stage

__all__ = ["Event", "StageQueue"]

GRACE = 2.0
"""Seconds without news after which a worker that finds nothing leaves; the driver needs less to offer what follows."""


@dataclass(frozen=True)
class Event:
    """News about a stage for the driver."""

    kind: Literal["started", "progress", "done", "failed", "lost"]
    digest: str
    worker: str
    facts: dict[str, Any]


Models = tuple[str, ...]


def _models(stage: Stage) -> Models:
    """What an evaluation must have loaded."""
    return tuple(needed.digest for needed in stage.inputs.values())


class StageQueue:
    """Ready stages, who works on what, and what happened since the driver asked last."""

    def __init__(self, attempts: int = 3) -> None:
        self.attempts_allowed = attempts
        self.ready: list[tuple[float, Stage]] = []
        self.running: dict[str, tuple[float, Stage]] = {}
        self.waiting: set[str] = set()
        self.attempts: dict[str, int] = {}
        self.reached: dict[str, int] = {}
        self.assigned: set[str] = set()
        self.models: dict[str, Models] = {}
        self.events: list[Event] = []
        self.last_news = time.monotonic()
        self.unkept: set[str] | None = None
        self.gone: set[str] = set()

    def offer(self, stages: list[tuple[float, Stage]]) -> None:
        """Add ready stages with their priorities; higher comes first."""
        self.ready += stages
        self.ready.sort(key=lambda entry: -entry[0])
        self.last_news = time.monotonic()

    def assign(self, worker: str, priority: float, stage: Stage) -> None:
        """Note a stage that gets workers of its own. Whoever assigned it does so again when it is lost."""
        self.assigned.add(stage.digest)
        self._start(worker, priority, stage)

    def take(self, worker: str, trains: bool) -> Stage | Literal["wait", "leave"]:
        """The next stage for a worker; ``trains`` tells whether it may train.

        A worker that trains waits while others work, since what follows may come; one that does not costs little to
        start again, and leaves at once. So does one whose group is gone: it lives on although its node is lost, or is
        about to end with its group.
        """
        if f"{worker.rpartition('/')[0]}/" in self.gone:
            return "leave"
        if self.unkept is None and (chosen := self._next(worker, trains)) is not None:
            priority, stage = self.ready.pop(chosen)
            self.waiting.discard(worker)
            self._start(worker, priority, stage)
            return stage
        # Searches and data-parallel runs take long, and others of their kind want the slots that idle workers hold.
        busy = any(stage.digest not in self.assigned for _, stage in self.running.values())
        if not trains or (not busy and time.monotonic() - self.last_news > GRACE):
            self.waiting.discard(worker)
            self.models.pop(worker, None)
            return "leave"
        self.waiting.add(worker)
        return "wait"

    def _next(self, worker: str, trains: bool) -> int | None:
        """Which ready stage a worker gets: the first, unless that is an evaluation and others spare it a model.

        Of evaluations a worker gets one of the models that it evaluated last, else of models that nobody else is at;
        at the end it helps out. So each model is loaded by one worker, or by few.
        """
        possible = [i for i, (_, stage) in enumerate(self.ready) if trains or stage.kind != "train"]
        if not possible or self.ready[possible[0]][1].kind != "evaluate":
            return possible[0] if possible else None
        models = {i: _models(self.ready[i][1]) for i in possible if self.ready[i][1].kind == "evaluate"}
        own = self.models.get(worker)
        taken = {of for name, of in self.models.items() if name != worker}
        mine = next((i for i, of in models.items() if of == own), None)
        free = next((i for i, of in models.items() if of not in taken), None)
        return next(i for i in (mine, free, possible[0]) if i is not None)

    def _start(self, worker: str, priority: float, stage: Stage) -> None:
        self.running[worker] = (priority, stage)
        if stage.kind == "evaluate":
            self.models[worker] = _models(stage)
        self.attempts[stage.digest] = self.attempts.get(stage.digest, 0) + 1
        self._tell("started", stage.digest, worker, attempt=self.attempts[stage.digest])

    def report(self, worker: str, facts: dict[str, Any]) -> None:
        """Progress of what a worker is at. A stage that got further than ever before has all its attempts again."""
        if worker not in self.running:
            return
        digest = self.running[worker][1].digest
        if facts.get("epoch", 0) > self.reached.get(digest, 0):
            self.reached[digest] = facts["epoch"]
            self.attempts[digest] = 1
        if self.unkept and facts.get("kept"):
            self.unkept.discard(digest)
        self._tell("progress", digest, worker, **facts)

    def close(self) -> None:
        """The run is about to end: nothing is given out any more, and trainings are asked to store their next epoch."""
        if self.unkept is None:
            self.unkept = {stage.digest for _, stage in self.running.values() if stage.kind in ("train", "search")}

    def closing(self) -> bool:
        """Whether :meth:`close` was called."""
        return self.unkept is not None

    def waiting_for(self) -> int:
        """How many of the trainings that :meth:`close` found have neither stored an epoch since nor ended."""
        return len(self.unkept or ())

    def holds(self, worker: str, digest: str) -> bool:
        """Whether a worker is still meant to do a stage."""
        return worker in self.running and self.running[worker][1].digest == digest

    def finish(self, worker: str, digest: str, error: str | None = None, retry: bool = False) -> None:
        """A stage ended; with ``retry`` a failed one is tried again while attempts are left."""
        entry = self.running.get(worker)
        if entry is None or entry[1].digest != digest:
            return  # it was given to somebody else in the meantime
        del self.running[worker]
        if self.unkept:
            self.unkept.discard(digest)
        if error is None:
            self._tell("done", digest, worker)
        elif retry and self.attempts[digest] < self.attempts_allowed:
            self._tell("lost", digest, worker, error=error)
            if digest not in self.assigned:
                self.offer([entry])
        else:
            self._tell("failed", digest, worker, error=error)

    def lose(self, name: str, why: str = "", blamed: Collection[str] | None = None) -> int:
        """A worker, or a group (its name ends in /), is gone: what it was at is tried again or given up.

        Another worker may bear the name of a lost one; that of a group never comes back, and its workers get no more.

        Args:
            why: what is known about the cause.
            blamed: the workers that died by themselves; what the others were at does not lose an attempt. None: all.

        Returns:
            How many stages that concerns.
        """

        def gone(worker: str) -> bool:
            return worker == name or (name.endswith("/") and worker.startswith(name))

        if name.endswith("/"):
            self.gone.add(name)
        self.waiting = {w for w in self.waiting if not gone(w)}
        self.models = {w: of for w, of in self.models.items() if not gone(w)}
        lost = [w for w in self.running if gone(w)]
        for worker in lost:
            digest = self.running[worker][1].digest
            tries = self.attempts[digest]
            if blamed is not None and worker not in blamed:
                self.attempts[digest] -= 1
            because = f": {why}" if why else ""
            self.finish(worker, digest, f"its worker {worker} was lost (attempt {tries}){because}", retry=True)
        return len(lost)

    def poll(self) -> tuple[list[Event], int, int, int]:
        """(news since the last call, stages to train that nobody took yet, other such stages, idle workers)."""
        news, self.events = self.events, []
        to_train = sum(stage.kind == "train" for _, stage in self.ready)
        return news, to_train, len(self.ready) - to_train, len(self.waiting)

    def _tell(self, kind: Any, digest: str, worker: str, **facts: Any) -> None:
        if kind != "progress":
            self.last_news = time.monotonic()
        self.events.append(Event(kind, digest, worker, facts))
