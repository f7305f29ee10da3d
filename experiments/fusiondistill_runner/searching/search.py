"""The Ray Tune job: trials are the searched training itself with another recipe, each with a share of a device.

Every trial is judged on the validation split after each epoch. :class:`Trials` knows which candidate is next. Tune
places the trials, keeps their processes alive from one to the next, and stops the weak ones early, as ASHA decides.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from fusiondistill_runner.nodes.cluster import Share
from fusiondistill_runner.planning.specs import SearchSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import spec_of
from fusiondistill_runner.searching.journal import Candidate
from fusiondistill_runner.searching.trials import Trials
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Report
from fusiondistill_runner.working.trial import metrics_of

__all__ = ["run"]

LOST = 2
"""How often a trial whose process died is continued in a new process."""


def run(
    stage: Stage,
    context: Any,
    share: Share,
    *,
    at_once: int,
    scratch: str,
    report: Report,
    queue: Any,
    labels: dict[str, str] | None = None,
) -> None:
    """Run the trials and store ``trials.parquet``, ``epochs.parquet`` and ``best.json``.

    Args:
        stage: the search stage; its inputs are those of the distillation.
        share: what a trial reserves.
        at_once: how many trials may run side by side.
        scratch: a folder for Tune's own files, of no use afterwards.
        labels: selects the nodes that trials may run on; None: all.
        report: called with the number of finished trials and the best accuracy so far.
        queue: the handle of the driver's queue; trials ask it whether the run is about to end.

    Raises:
        RuntimeError: no trial came to a result.
    """
    for name, value in _TUNE.items():
        os.environ.setdefault(name, value)
    from ray import tune

    spec = spec_of(stage)
    scheduler = _asha(tune, spec) if spec.scheduler == "asha" and spec.train.recipe.epochs > 1 else None
    trials = Trials(stage, Store(context.store), scheduler, report)
    if trials.any_left():
        selector = {"bundle_label_selector": [labels]} if labels else {}
        trial = tune.with_resources(
            _trial(stage, context, queue), tune.PlacementGroupFactory([share.resources], **selector)
        )
        with _REGISTERING:
            tune.register_trainable(stage.directory, trial)
        tuner = tune.Tuner(
            stage.directory,
            tune_config=tune.TuneConfig(
                num_samples=spec.candidates,
                max_concurrent_trials=at_once,
                search_alg=_asking(tune, trials),
                scheduler=scheduler,
                reuse_actors=True,  # a trial costs no new process
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"{stage.directory}-{int(trials.began)}", storage_path=scratch, verbose=0,
                callbacks=[_telling(tune, trials)],
                failure_config=tune.FailureConfig(max_failures=LOST),
            ),
        )  # fmt: skip
        tuner.fit()
    trials.commit()


_REGISTERING = threading.Lock()
"""Held while a trainable is registered: another search may be writing out Tune's table of them in its thread."""
_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's error is told without a metric
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the journal is what a search goes on from
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the first trials start together; max_concurrent_trials is the limit
    "RAY_AIR_NEW_OUTPUT": "0",
}


def _asha(tune: Any, spec: SearchSpec) -> Any:
    epochs = spec.train.recipe.epochs
    return tune.schedulers.ASHAScheduler(
        time_attr="epoch", metric="validation", mode="max", grace_period=max(1, epochs // 4), reduction_factor=3,
        # No trial is stopped at its last epoch, so that each one that reaches it commits its result.
        max_t=epochs - 1, stop_last_trials=False,
    )  # fmt: skip


def _asking(tune: Any, trials: Trials) -> Any:
    """The searcher that Tune asks for the next trial."""

    class Asking(tune.search.Searcher):
        def suggest(self, trial_id: str) -> Any:
            candidate = trials.next()
            if candidate is None:
                return tune.search.Searcher.FINISHED
            return {"number": candidate.number, "values": candidate.values}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """Nothing: the callback notes a trial's outcome."""

        def save(self, checkpoint_path: str) -> None:
            """Nothing: a search goes on from its journal."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing, as :meth:`save`."""

    return Asking()


def _telling(tune: Any, trials: Trials) -> Any:
    """The callback that Tune tells about its trials."""

    def of(trial: Any) -> Candidate:
        return trials.journal.known[trial.config["number"]]

    class Telling(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if not of(trial).rows:
                of(trial).started = time.time()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            if "error" in result:
                of(trial).error = result["error"]
            elif "validation" in result:
                of(trial).rows[int(result["epoch"])] = metrics_of(result)
            say()

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            end(of(trial), of(trial).error)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            end(of(trial), f"its process died {LOST + 1} times")

    end, say = trials.end, trials.say
    return Telling()


def _trial(stage: Stage, context: Any, queue: Any) -> Callable[[dict[str, Any]], None]:
    def trial(config: dict[str, Any]) -> None:
        import ray
        from ray import tune

        from fusiondistill_runner.nodes.devices import plain_device
        from fusiondistill_runner.working.errors import describe
        from fusiondistill_runner.working.trial import train_candidate

        try:
            train_candidate(
                stage,
                config["values"],
                context,
                plain_device(),
                tune.report,
                closing=lambda: ray.get(queue.closing.remote()),
            )
        except Exception as problem:  # reported, so that the process lives and takes the next trial
            tune.report({"error": describe(problem).splitlines()[-1]})

    return trial
