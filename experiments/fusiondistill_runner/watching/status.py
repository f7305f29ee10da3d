"""Which stages of a store are done, under way, failed or missing: said once, or until the run has ended."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from fusiondistill.checkpoints import MANIFEST, CheckpointError
from fusiondistill.counting import counted
from fusiondistill_runner.planning.specs import JUDGING
from fusiondistill_runner.storage.best import BEST, FACTS, named_best
from fusiondistill_runner.storage.noted_plans import holds_plans, plans
from fusiondistill_runner.storage.store import ERROR, PROGRESS, Store
from fusiondistill_runner.views.networks import left_over, networks
from fusiondistill_runner.views.stage_tables import counted_code, made_by
from fusiondistill_runner.views.unfinished import last_line
from fusiondistill_runner.watching.display import duration, progress, running_table
from fusiondistill_runner.watching.status_file import STATUS_FILE, read_status

__all__ = ["Seen", "StoreWatch", "status_lines", "watch"]

EVERY, EVERY_REMOTE = 1.0, 10.0
"""Default seconds between two looks, at a directory and at a bucket."""
FEW = 10
"""The most missing stages of which each has a line."""


@dataclass(frozen=True)
class Seen:
    """One look at a store."""

    location: str
    plans: list[dict[str, Any]]
    seconds: Mapping[str, float]
    """Directory of each stored stage -> its seconds of one worker."""
    epochs: Mapping[str, int]
    """Directory of each unfinished stage -> its stored epochs."""
    errors: Mapping[str, str]
    """Directory of each failed stage -> the last line of its error."""
    status: Mapping[str, Any] | None
    """The run's status file, see :mod:`watching.status_file`."""
    codes: Mapping[str, int]
    """Version of the code -> number of stored stages that it made."""

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Directory -> stage, of all plans."""
        return {stage["directory"]: stage for plan in self.plans for stage in plan["stages"]}

    @cached_property
    def running(self) -> dict[str, Mapping[str, Any]]:
        """Directory of each stage that a worker is at -> its facts. Empty where the run has ended or is silent."""
        status = self.status or {}
        if status.get("state") != "running" or status.get("silent"):
            return {}
        here = self.stages.keys() - self.seconds.keys()
        return {one["directory"]: one for one in status["running"] if one["directory"] in here}

    @property
    def outcome(self) -> str | None:
        """``done`` or ``failed`` once the run has ended; None while there is something to wait for."""
        if all(directory in self.seconds for directory in self.stages):
            return "done"
        state = (self.status or {}).get("state")
        return state if state in ("done", "failed") else None

    @property
    def device_seconds(self) -> float:
        """Seconds of one worker so far, of stored and of running stages; a search's are those of its trials."""
        now = time.time()
        running = [one for directory, one in self.running.items() if self.stages[directory]["kind"] != "search"]
        return sum(self.seconds.values()) + sum(max(0.0, now - one["since"]) for one in running)

    def state(self, directory: str) -> str:
        """The state of a stage, in words."""
        if directory in self.seconds:
            return "done"
        if directory in self.errors:
            return f"failed: {self.errors[directory]}"
        if one := self.running.get(directory):
            return ", ".join(part for part in (f"running on {one['worker']}", progress(one)) if part)
        if epochs := self.epochs.get(directory):
            return f"{counted(epochs, 'epoch')} stored"
        return "missing"


class StoreWatch:
    """Looks at a store again and again, and reads each manifest once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stored: dict[str, Mapping[str, Any]] = {}
        self.last: Seen | None = None

    def look(self) -> Seen:
        """Look at the store now. As long as the run's status file tells of no stage that ended, only that is read.

        Raises:
            CheckpointError: there is no store, or a plan is damaged.
            OSError: a bucket does not answer.
        """
        last = self.last
        status = read_status(self.store) if last else None
        if last and status and not status["silent"] and _same(status, last.status, *_STAGES):
            self.last = replace(last, status=status)
            return self.last
        seen = self.store.glance(PROGRESS, ERROR, *(() if last else (MANIFEST, STATUS_FILE)))
        status = status or read_status(seen)
        known = last.plans if last and status and _same(status, last.status, *_RUN) else plans(self.store)
        directories = {stage["directory"] for plan in known for stage in plan["stages"]}
        self.stored = {name: kept for name, kept in self.stored.items() if name in directories}
        for directory in directories - self.stored.keys():
            if (kept := _kept(seen, directory)) is not None:
                self.stored[directory] = kept
        left = directories - self.stored.keys()
        errors = {d: error for d in left if (error := seen.read_raw(d, ERROR))}
        self.last = Seen(
            self.store.location,
            known,
            {directory: kept["seconds"] for directory, kept in self.stored.items()},
            {d: epochs for d in left if (epochs := seen.epochs_stored(d))},
            {d: last_line(error) for d, error in errors.items()},
            status,
            counted_code(self.stored.values()),
        )
        return self.last


_RUN = ("host", "process")
_STAGES = (*_RUN, "state", "finished", "failed")


def _same(one: Mapping[str, Any], other: Mapping[str, Any] | None, *names: str) -> bool:
    return other is not None and all(one.get(name) == other.get(name) for name in names)


def _kept(store: Store, directory: str) -> Mapping[str, Any] | None:
    """A stored stage's seconds of one worker and its code; None where the stage is not stored, or damaged."""
    try:
        manifest = store.manifest_of(directory)
    except CheckpointError:
        return None
    if manifest is None:
        return None
    seconds = float(manifest.get("training_seconds", manifest.get("seconds", 0.0)))
    return {"seconds": seconds, "code": manifest.get("code")}


def status_lines(store: Store) -> list[str]:
    """For each experiment the number of stored stages, what the other stages are at, and whose networks are whose."""
    seen, lines = StoreWatch(store).look(), []
    others = left_over(store.glance(), seen.plans)
    for plan in seen.plans:
        lines.append(_head(seen, plan))
        lines += _unstored(seen, plan)
        lines += [f"  {label}: {at} is the table's" for label, name, _, at in networks(plan) if name in others]
    lines += [f"  {one}: of other settings, in no table" for left in others.values() for one in left]
    if best := named_best(store.glance(FACTS)):
        lines.append(f"  best network: {best}, as {store.shown(BEST)}")
    return [*lines, *(["fusiondistill prune deletes what is in no table"] if others else []), *_mixed(seen)]


def _unstored(seen: Seen, plan: Mapping[str, Any]) -> Iterator[str]:
    """A line for each stage that is not stored; many of which nothing is known yet are counted by their kind."""
    states = [(stage, seen.state(stage["directory"])) for stage in plan["stages"]]
    missing = Counter(stage["kind"] for stage, state in states if state == "missing")
    counted_only = missing.total() > FEW
    for stage, state in states:
        if state != "done" and not (counted_only and state == "missing"):
            yield f"  {_name(stage)}: {state}"
    if counted_only:
        yield f"  missing: {', '.join(f'{count:,} {kind}' for kind, count in missing.items())}"


def _mixed(seen: Seen) -> list[str]:
    """A line about the versions of the code, where several made the stored stages."""
    return [made_by(seen.codes)] if len(seen.codes) > 1 else []


def _name(stage: Mapping[str, Any]) -> str:
    return f"{stage['name']}, seed {stage['seed']}"


def _head(seen: Seen, plan: Mapping[str, Any]) -> str:
    directories = [stage["directory"] for stage in plan["stages"]]
    stored = sum(directory in seen.seconds for directory in directories)
    return f"{plan['experiment']}: {stored} of {counted(len(directories), 'stage')} stored in {seen.location}"


def _cost(seen: Seen) -> str:
    """Device-seconds so far, of stored and of running stages."""
    return f"{seen.device_seconds:,.0f} device-seconds so far"


def _left(seen: Seen) -> str:
    """The time left, or why the run does not go on."""
    status = seen.status
    if seen.outcome == "done":
        return "complete"
    if status is None:
        return "no run reports its state"
    where = f"process {status['process']} on {status['host']}"
    if status["state"] == "interrupted":
        return f"interrupted ({where}); start the same command again to go on"
    if status["state"] == "failed":
        return "ended, with failures; mend the cause and start the same command again"
    if status["silent"]:
        return f"no news from {where} for {duration(status['silent'])}: it may be gone"
    left = status.get("seconds_left")
    return "time left unknown" if left is None else f"about {duration(left)} left"


def watch(store: Store, every: float | None, say: Callable[[str], None]) -> bool:
    """Show the state of a store until its run has ended: in place on a terminal, else a line for each change.

    Args:
        every: seconds between two looks; default 1, of a bucket 10.
        say: prints a line.

    Returns:
        True if all is done, False if the run ended with failures.
    """
    looking = StoreWatch(store)
    every = every or (EVERY_REMOTE if store.remote else EVERY)
    if not holds_plans(store):
        say(f"{store.location} holds no run yet: waiting for one to start (Ctrl-C leaves)")
        while not holds_plans(store):
            time.sleep(every)
    seen = looking.look()
    if sys.stdout.isatty():
        seen = _watch_terminal(looking, seen, every)
        for line in _end_lines(seen):
            say(line)
    else:
        said: dict[str, str] = {}
        while True:
            for line in _news(seen, said):
                say(line)
            if seen.outcome:
                break
            seen = _next(looking, seen, every)
    return seen.outcome == "done"


def _next(looking: StoreWatch, seen: Seen, every: float) -> Seen:
    """The next look; the last one where the store does not answer."""
    time.sleep(every)
    try:
        return looking.look()
    except OSError:
        return seen


def _watch_terminal(looking: StoreWatch, seen: Seen, every: float) -> Seen:
    from rich.live import Live

    with Live(get_renderable=lambda: _table(seen), refresh_per_second=2, transient=True):
        while not seen.outcome:
            seen = _next(looking, seen, every)
    return seen


def _end_lines(seen: Seen) -> list[str]:
    failed = [f"{_name(seen.stages[d])}: {seen.state(d)}" for d in seen.errors]
    return [*map(partial(_head, seen), seen.plans), *failed, *_mixed(seen), f"{_cost(seen)}; {_left(seen)}"]


def _news(seen: Seen, said: dict[str, str]) -> list[str]:
    """A line for each change since the last call; ``said`` (key -> text said last) is brought up to date."""
    lines = []
    texts = {directory: seen.state(directory) for directory in seen.stages}
    for directory, text in texts.items():
        old = said.get(directory, text if text in ("missing", "done") else None)
        many = seen.stages[directory]["kind"] in JUDGING and directory not in seen.errors
        if text != old and not many:
            lines.append(f"{_name(seen.stages[directory])}: {text}")
    heads = {f"plan {plan['experiment']}": _head(seen, plan) for plan in seen.plans}
    changed = [text for key, text in heads.items() if said.get(key) != text]
    lines += [f"{text}; {_cost(seen)}, {_left(seen)}" for text in changed]
    end = seen.outcome or (_left(seen) if _quiet(seen) else "")
    if end and said.get("end") != end and not changed:
        lines.append(_left(seen))
    lines += _mixed(seen) if seen.outcome else []
    said.update(texts, **heads, end=end)
    clock = time.strftime("%H:%M:%S")
    return [f"{clock} {line}" for line in lines]


def _quiet(seen: Seen) -> bool:
    """Whether the run was interrupted or has gone silent."""
    status = seen.status
    return status is not None and (status["state"] == "interrupted" or status["silent"] is not None)


def _table(seen: Seen) -> Any:
    """A look for a terminal: running, waiting and failed stages, cost and time left."""
    from rich.console import Group
    from rich.text import Text

    several = len({stage["seed"] for stage in seen.stages.values()}) > 1

    def short(stage: Mapping[str, Any]) -> str:
        return f"{stage['name']}[{stage['seed']}]" if several else str(stage["name"])

    running = [(short(seen.stages[d]), one["worker"], one) for d, one in seen.running.items() if d in seen.stages]
    heads = "\n".join(_head(seen, plan) for plan in seen.plans[:8])
    parts: list[Any] = [running_table(heads, running)]
    waiting = [s for d, s in seen.stages.items() if seen.state(d) == "missing"]
    names = list(dict.fromkeys(short(s) for s in waiting if s["kind"] not in JUDGING))
    count = sum(s["kind"] in JUDGING for s in waiting)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    texts = [", ".join(names[:8]) + more, f"{count} evaluations" if count else ""]
    if waiting:
        parts.append(Text("waiting: " + "; ".join(text for text in texts if text), style="dim"))
    for directory in list(seen.errors)[:8]:
        parts.append(Text(f"{_name(seen.stages[directory])}: {seen.state(directory)}", style="red"))
    return Group(*parts, Text(f"{_cost(seen)}; {_left(seen)}"))
