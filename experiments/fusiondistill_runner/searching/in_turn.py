"""A search in this process: one trial after another, each to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.searching.journal import Candidate
from fusiondistill_runner.searching.trials import Trials
from fusiondistill_runner.storage.holding import StoreBusy
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context, Report
from fusiondistill_runner.working.errors import describe
from fusiondistill_runner.working.trial import metrics_of, train_candidate

__all__ = ["run"]


def run(stage: Stage, context: Context, device: Any, report: Report, closing: Callable[[], bool]) -> None:
    """Run the trials and store the search's result.

    Args:
        stage: the search stage.
        device: what trials compute on.
        report: called with the number of finished trials, the best accuracy so far, and under ``kept`` whether the
            epoch that just ended is stored. An error that it raises ends the search; the next run goes on from there.
        closing: whether the run is about to end, so that the current epoch has to be stored.

    Raises:
        RuntimeError: no trial came to a result.
    """
    trials = Trials(stage, Store(context.store), None, report)
    while (candidate := trials.next()) is not None:
        if not candidate.rows:
            candidate.started = time.time()
        error = None
        try:
            train_candidate(stage, candidate.values, context, device, _noting(trials, candidate), closing)
        except StoreBusy:  # ends the run, not the trial alone
            raise
        except Exception as problem:
            error = describe(problem).splitlines()[-1]
        trials.end(candidate, error)
    trials.commit()


def _noting(trials: Trials, candidate: Candidate) -> Report:
    """A function that notes the metrics of a candidate's epochs."""

    def note(facts: dict[str, Any]) -> None:
        if "validation" in facts:
            candidate.rows[int(facts["epoch"])] = metrics_of(facts)
        trials.say(kept=facts.get("kept", True))

    return note
