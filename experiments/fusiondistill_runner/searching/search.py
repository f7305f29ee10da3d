"""The Ray Tune job: trials are the distillation stage itself with another recipe, each with a share of a device.

Every trial is judged on the validation split after each epoch; ASHA stops weak ones early. The searcher proposes and
the journal remembers; Tune places trials, keeps their processes alive from one to the next, and stops those that ASHA
gives up. What the store holds already costs no trial: a finished candidate is judged by its stored epochs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fusiondistill import checkpoints
from fusiondistill_runner.nodes.cluster import Share
from fusiondistill_runner.planning.search_space import candidate_count
from fusiondistill_runner.planning.specs import SearchSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.searching.journal import Candidate, Journal, Outcome
from fusiondistill_runner.searching.search_results import choose, epoch_rows, outcome, summary, trial_rows
from fusiondistill_runner.searching.searchers import searcher_for
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.trial import metrics_of, stored_rows

__all__ = ["run"]

Report = Callable[[dict[str, Any]], None]
LOST = 2
"""How often a trial whose process died goes on in another one."""


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
        scratch: a folder for Tune's own files, which nobody needs afterwards.
        labels: of the nodes that trials may run on; None: of any.
        report: told how many trials are done and the best accuracy so far.
        queue: the handle of the driver's queue, which trials ask whether the run is about to end.

    Raises:
        RuntimeError: no trial came to a result.
    """
    for name, value in _TUNE.items():
        os.environ.setdefault(name, value)
    from ray import tune

    spec = stage.spec
    assert isinstance(spec, SearchSpec)
    began = time.time()
    scheduler = _asha(tune, spec) if spec.scheduler == "asha" and spec.train.recipe.epochs > 1 else None
    trials = _Trials(stage, Store(context.store), scheduler, report)
    if trials.any_left():
        selector = {"bundle_label_selector": [labels]} if labels else {}
        tuner = tune.Tuner(
            tune.with_resources(
                _trial(stage, context, queue), tune.PlacementGroupFactory([share.resources], **selector)
            ),
            tune_config=tune.TuneConfig(
                num_samples=candidate_count(spec),
                max_concurrent_trials=at_once,
                search_alg=_asking(tune, trials),
                scheduler=scheduler,
                reuse_actors=True,  # a trial costs no new process
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"{stage.directory}-{int(began)}", storage_path=scratch, verbose=0,
                callbacks=[_telling(tune, trials)],
                failure_config=tune.FailureConfig(max_failures=LOST),
            ),
        )  # fmt: skip
        tuner.fit()
    _store(stage, context, trials.journal.candidates, began, trials.journal.address["made_from"])


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
        # Nobody is stopped at the last epoch: who reaches it also gets to commit its result.
        max_t=epochs - 1, stop_last_trials=False,
    )  # fmt: skip


class _Trials:
    """The candidates on this side of Tune: which is next, and what became of the others."""

    def __init__(self, stage: Stage, store: Store, asha: Any, report: Report) -> None:
        assert isinstance(stage.spec, SearchSpec)
        self.stage, self.store, self.asha, self.report = stage, store, asha, report
        self.number, self.epochs = candidate_count(stage.spec), stage.spec.train.recipe.epochs
        self.journal = Journal(stage, store)
        self.searcher = searcher_for(stage, self.journal.candidates)
        self.waiting = [one for one in self.journal.candidates if not one.ended]
        for candidate in self.journal.candidates:
            if candidate.ended:
                self._tell_asha(candidate)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles whatever it holds, for a restart that the journal is better at."""
        return {}

    def next(self) -> Candidate | None:
        """The next candidate that needs training; those that are stored are judged on the way."""
        while (candidate := self.waiting.pop(0) if self.waiting else self._propose()) is not None:
            rows = None if candidate.ended else stored_rows(self.stage, candidate.values, self.store)
            if rows:
                candidate.rows = rows
                self._tell_asha(candidate)
                self.end(candidate)
            elif not candidate.ended:
                return candidate
        return None

    def any_left(self) -> bool:
        """Whether there is anything to train."""
        candidate = self.next()
        if candidate is not None:
            self.waiting.insert(0, candidate)
        return candidate is not None

    def end(self, candidate: Candidate, error: str | None = None) -> None:
        """A candidate needs no more work."""
        ended: Outcome = "failed" if error else "done" if max(candidate.rows, default=0) >= self.epochs else "stopped"
        if not error and not candidate.rows:
            ended, error = "failed", "the trial ended without a result"
        self.journal.end(candidate, ended, error)
        self.searcher.tell(candidate)
        self.say()

    def say(self) -> None:
        """Tell how far the search is."""
        scores = [one.score for one in self.journal.candidates if one.score is not None]
        best = {"validation": max(scores)} if scores else {}
        ended = sum(one.ended for one in self.journal.candidates)
        self.report({"epoch": ended, "epochs": self.number, "unit": "trial", **best})

    def _propose(self) -> Candidate | None:
        values = self.searcher.ask()
        candidate = None if values is None else self.journal.begin(values)
        if candidate is not None and candidate.ended:  # its values are no recipe together
            self.searcher.tell(candidate)
            self.say()
        return candidate

    def _tell_asha(self, candidate: Candidate) -> None:
        """Let ASHA compare new trials with one that does not run again."""
        if self.asha is None:
            return
        known = SimpleNamespace(trial_id=f"known-{candidate.number}")
        self.asha.on_trial_add(None, known)
        for epoch, row in sorted(candidate.rows.items()):
            self.asha.on_trial_result(None, known, {"epoch": epoch, "validation": row["validation"]})


def _asking(tune: Any, trials: _Trials) -> Any:
    """What Tune asks for the next trial."""

    class Asking(tune.search.Searcher):
        def suggest(self, trial_id: str) -> Any:
            candidate = trials.next()
            if candidate is None:
                return tune.search.Searcher.FINISHED
            return {"number": candidate.number, "values": candidate.values}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """What a trial came to is told by the callback."""

        def save(self, checkpoint_path: str) -> None:
            """The journal is what a search goes on from."""

        def restore(self, checkpoint_path: str) -> None:
            """As save."""

    return Asking()


def _telling(tune: Any, trials: _Trials) -> Any:
    """What Tune tells about its trials."""

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
        import torch
        from ray import tune

        from fusiondistill.plugins import load_plugins
        from fusiondistill_runner.nodes.devices import plain_device
        from fusiondistill_runner.working.errors import describe
        from fusiondistill_runner.working.trial import train_candidate

        assert isinstance(stage.spec, SearchSpec)
        torch.set_num_threads(stage.spec.train.threads)
        try:
            load_plugins(context.plugins)
            train_candidate(
                stage,
                config["values"],
                context,
                plain_device(),
                tune.report,
                closing=lambda: ray.get(queue.closing.remote()),
            )
        except Exception as problem:  # the process is fine and takes the next trial
            tune.report({"error": describe(problem).splitlines()[-1]})

    return trial


def _store(stage: Stage, context: Any, candidates: list[Candidate], began: float, made_from: Any = None) -> None:
    import pyarrow as pa

    spec = stage.spec
    assert isinstance(spec, SearchSpec)
    trials = [summary(candidate, spec) for candidate in candidates]
    best = choose(trials)
    if best is None:
        errors = [trial["error"] for trial in trials if trial["error"]]
        raise RuntimeError(f"no trial of the search came to a result: {errors[0] if errors else 'no trial ran'}")
    store = Store(context.store)
    found = {name: best[name] for name in ("values", "validation", "trial")}
    facts = {
        "started": min([began, *(candidate.started for candidate in candidates)]),
        "finished": time.time(),
        "seconds": time.time() - began,
        "training_seconds": sum(trial["seconds"] for trial in trials),
        "outcome": outcome(candidates, best),
    }
    files = {
        "trials.parquet": parquet_bytes(pa.Table.from_pylist(trial_rows(trials))),
        "epochs.parquet": parquet_bytes(pa.Table.from_pylist(epoch_rows(candidates, spec.train.degradations))),
        "best.json": json.dumps(found, indent=1).encode(),
    }
    store.commit(stage, files, facts, checkpoints.new_attempt(), made_from)
    for directory in (directory for candidate in candidates for directory in candidate.directories):
        store.discard(directory)  # what was stopped early
