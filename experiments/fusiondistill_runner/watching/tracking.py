"""MLflow and Weights & Biases, fed from the driver by the same metrics as the event files.

Each tracker has its own thread, so that a slow server never holds up the run. The display shows a tracker's first
error, and the run goes on without that tracker.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from fusiondistill.config import Config
from fusiondistill.recipe import flat
from fusiondistill_runner.driving.queue import Event
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.working.metrics import scalars

__all__ = ["Feed", "Run", "Tracker", "Tracking", "trackers_of"]

PATIENCE = 15.0
"""Seconds that the end of a run waits for a tracker to take the last news."""
MOST = 10_000
"""News that may wait for a tracker; more are dropped."""


@dataclass(frozen=True)
class Run:
    """A tracker's run: a training, or a search."""

    directory: str
    """The stage's directory, the same when the stage goes on after an interruption."""
    name: str
    experiment: str
    parameters: Mapping[str, Any]


class Tracker(Protocol):
    """Where metrics go. An error of its methods ends the tracking, not the run."""

    def log(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """Take in the metrics of an epoch; one that was logged before may come again."""

    def end(self, run: Run, state: str) -> None:
        """Note that a run ended that has logged: ``done``, ``failed``, or ``left`` for later."""


class MLflow:
    """Runs of one MLflow experiment. User and password come from MLflow's own environment variables."""

    def __init__(self, uri: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # must be set before the import
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.runs: dict[str, str] = {}
        self.reached: dict[str, int] = {}

    def log(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """As :class:`Tracker`."""
        from mlflow.entities import Metric

        if run.directory not in self.runs:
            self._begin(run)
        if step > self.reached.get(run.directory, 0):
            now = int(1000 * time.time())
            metrics = [Metric(name, value, now, step) for name, value in values.items()]
            self.client.log_batch(self.runs[run.directory], metrics=metrics)
            self.reached[run.directory] = step

    def _begin(self, run: Run) -> None:
        from mlflow.entities import Param

        known = self.client.get_experiment_by_name(run.experiment)
        experiment = known.experiment_id if known else self.client.create_experiment(run.experiment)
        tag = "fusiondistill.stage"
        found = self.client.search_runs([experiment], f"tags.`{tag}` = '{run.directory}'", max_results=1)
        if found:
            self.runs[run.directory] = found[0].info.run_id
            names = found[0].data.metrics
            history = [m.step for name in names for m in self.client.get_metric_history(found[0].info.run_id, name)]
            self.reached[run.directory] = max(history, default=0)
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return
        made = self.client.create_run(experiment, tags={tag: run.directory}, run_name=run.name)
        self.runs[run.directory] = made.info.run_id
        parameters = [Param(name, str(value)) for name, value in run.parameters.items()]
        self.client.log_batch(made.info.run_id, params=parameters)

    def end(self, run: Run, state: str) -> None:
        """As :class:`Tracker`."""
        status = {"done": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")
        self.client.set_terminated(self.runs[run.directory], status)


class WeightsAndBiases:
    """Runs of one project, grouped by experiment. Key and mode come from wandb's own environment variables."""

    def __init__(self, project: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.project = project
        self.runs: dict[str, Any] = {}

    def log(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """As :class:`Tracker`; skips an epoch that the run is beyond."""
        import wandb

        if run.directory not in self.runs:
            self.runs[run.directory] = wandb.init(
                project=self.project,
                id=run.directory,
                name=run.name,
                group=run.experiment,
                config=dict(run.parameters),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", init_timeout=30),
            )
        if step >= self.runs[run.directory].step:
            self.runs[run.directory].log(dict(values), step=step)

    def end(self, run: Run, state: str) -> None:
        """As :class:`Tracker`."""
        self.runs[run.directory].finish(exit_code=0 if state == "done" else 1)


def trackers_of(config: Config) -> dict[str, Callable[[], Tracker]]:
    """The trackers that a config asks for: name -> a function that opens it."""
    asked: dict[str, Callable[[], Tracker]] = {}
    tracking = config.tracking
    if tracking and (uri := tracking.mlflow):
        asked["MLflow"] = lambda: MLflow(uri)
    if tracking and (project := tracking.wandb):
        asked["Weights & Biases"] = lambda: WeightsAndBiases(project)
    return asked


class Tracking:
    """Feeds the trackers of a config while it is entered.

    Args:
        config: of the run.
        display: tells the news, and shows errors.
    """

    def __init__(self, config: Config, display: Any) -> None:
        self.feeds = [Feed(name, opened, config, display.say) for name, opened in trackers_of(config).items()]
        display.listeners.extend(feed.note for feed in self.feeds)

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        limit = time.monotonic() + PATIENCE
        for feed in self.feeds:
            feed.close(limit)


class Feed:
    """One tracker, and the thread that hands it the news in order."""

    def __init__(self, name: str, opened: Callable[[], Tracker], config: Config, say: Callable[[str], None]) -> None:
        self.name, self.opened, self.config, self.say = name, opened, config, say
        self.news: queue.Queue[tuple[Stage, str, Event] | None] = queue.Queue(MOST)
        self.begun: dict[str, Run] = {}
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def note(self, stage: Stage, label: str, event: Event) -> None:
        """Take in news about a stage; returns at once."""
        if self.thread.is_alive() and stage.spec.training and not self.news.full():
            self.news.put_nowait((stage, label, event))

    def close(self, limit: float) -> None:
        """Wait until the tracker has taken all news, at most until ``limit`` (of the monotonic clock)."""
        if not self.thread.is_alive():
            return
        if not self.news.full():
            self.news.put_nowait(None)
        self.thread.join(timeout=max(0.0, limit - time.monotonic()))
        if self.thread.is_alive():
            self.say(f"{self.name} does not keep up: what it has not taken by now is lost")

    def _run(self) -> None:
        try:
            tracker = self.opened()
            while (news := self.news.get()) is not None:
                self._take(tracker, *news)
            for run in self.begun.values():
                tracker.end(run, "left")
        except Exception as error:  # clients raise many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.say(f"{self.name}: {reason[:300]}; the run goes on without it")

    def _take(self, tracker: Tracker, stage: Stage, label: str, event: Event) -> None:
        if event.kind == "progress" and event.facts.get("epoch"):
            values = {name: value for name, value in scalars(event.facts).items() if math.isfinite(value)}
            run = self.begun.get(event.digest) or Run(
                stage.directory, label, self.config.experiment, _parameters(stage)
            )
            self.begun[event.digest] = run
            tracker.log(run, int(event.facts["epoch"]), values)
        elif event.kind in ("done", "failed") and event.digest in self.begun:
            tracker.end(self.begun.pop(event.digest), event.kind)


def _parameters(stage: Stage) -> dict[str, Any]:
    """A run's parameters: its recipe's keys, network, data and seed."""
    spec = stage.spec.training
    assert spec is not None
    recipe = flat(spec.recipe)
    own = {"stage": stage.name, "seed": stage.seed, "model": spec.model.name, "data": spec.data.name}
    return {**own, "degradations": ",".join(one.id for one in spec.degradations), "protocol": spec.protocol, **recipe}
