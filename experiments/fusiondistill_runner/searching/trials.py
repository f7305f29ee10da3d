"""The candidates of a search: which is next, how the others ended, and the search's result. No Ray.

The searcher proposes candidates, the journal notes them. Workers of the run (:mod:`searching.search`) or the loop of
one process (:mod:`searching.in_turn`) train them. A candidate whose training is stored already is judged by its stored
epochs.
"""

from __future__ import annotations

import json
import time
from typing import Any

from fusiondistill import checkpoints
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import spec_of
from fusiondistill_runner.searching.asha import Asha
from fusiondistill_runner.searching.journal import Candidate, Journal, Outcome
from fusiondistill_runner.searching.search_results import choose, epoch_rows, outcome, summary, trial_rows
from fusiondistill_runner.searching.searchers import searcher_for
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Report
from fusiondistill_runner.working.trial import stored_rows

__all__ = ["Trials"]


class Trials:
    """The candidates of one search.

    Args:
        stage: the search stage; its inputs are those of the searched training.
        store: where the search's directory lies.
        asha: also learns of candidates that do not run again; None: no trial is stopped early.
        report: called with the number of finished trials and the best accuracy so far.
    """

    def __init__(self, stage: Stage, store: Store, asha: Asha | None, report: Report) -> None:
        self.stage, self.spec, self.store, self.asha, self.report = stage, spec_of(stage), store, asha, report
        self.number, self.epochs = self.spec.candidates, self.spec.train.recipe.epochs
        self.began = time.time()
        self.journal = Journal(stage, store)
        self.searcher = searcher_for(stage, self.journal.candidates)
        self.waiting = [one for one in self.journal.candidates if not one.ended]
        for candidate in self.journal.candidates:
            if candidate.ended:
                self._tell_asha(candidate)

    def next(self) -> Candidate | None:
        """The next candidate that needs training. Candidates whose training is stored are judged on the way."""
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
        """Whether a candidate is left that needs training."""
        candidate = self.next()
        if candidate is not None:
            self.waiting.insert(0, candidate)
        return candidate is not None

    def end(self, candidate: Candidate, error: str | None = None) -> None:
        """Note that a candidate needs no more work."""
        ended: Outcome = "failed" if error else "done" if max(candidate.rows, default=0) >= self.epochs else "stopped"
        if not error and not candidate.rows:
            ended, error = "failed", "the trial ended without a result"
        self.journal.end(candidate, ended, error)
        self.searcher.tell(candidate)
        self.say()

    def say(self, **more: Any) -> None:
        """Report how far the search is, with ``more`` facts."""
        scores = [one.score for one in self.journal.candidates if one.score is not None]
        best = {"validation": max(scores)} if scores else {}
        ended = sum(one.ended for one in self.journal.candidates)
        self.report({"epoch": ended, "epochs": self.number, "unit": "trial", **best, **more})

    def _propose(self) -> Candidate | None:
        values = self.searcher.ask()
        candidate = None if values is None else self.journal.begin(values)
        if candidate is not None and candidate.ended:  # its values are no recipe together
            self.searcher.tell(candidate)
            self.say()
        return candidate

    def _tell_asha(self, candidate: Candidate) -> None:
        """Let ASHA compare new trials with one that does not run again."""
        if self.asha is not None:
            for epoch, row in sorted(candidate.rows.items()):
                self.asha.goes_on(candidate.number, epoch, row["validation"])

    def commit(self) -> None:
        """Store ``trials.parquet``, ``epochs.parquet`` and ``best.json``; delete the trainings that were stopped early.

        Raises:
            RuntimeError: no trial came to a result.
        """
        import pyarrow as pa

        candidates = self.journal.candidates
        trials = [summary(candidate, self.spec) for candidate in candidates]
        best = choose(trials)
        if best is None:
            errors = [trial["error"] for trial in trials if trial["error"]]
            raise RuntimeError(f"no trial of the search came to a result: {errors[0] if errors else 'no trial ran'}")
        facts = {
            "started": min([self.began, *(candidate.started for candidate in candidates)]),
            "finished": time.time(),
            "seconds": time.time() - self.began,
            "training_seconds": sum(trial["seconds"] for trial in trials),
            "outcome": outcome(candidates, best),
        }
        found = {name: best[name] for name in ("values", "validation", "trial")}
        degradations = [one.id for one in self.spec.train.degradations]
        files = {
            "trials.parquet": parquet_bytes(pa.Table.from_pylist(trial_rows(trials))),
            "epochs.parquet": parquet_bytes(pa.Table.from_pylist(epoch_rows(candidates, degradations))),
            "best.json": json.dumps(found, indent=1).encode(),
        }
        self.store.commit(self.stage, files, facts, checkpoints.new_attempt(), self.journal.made_from)
        for directory in (directory for candidate in candidates for directory in candidate.directories):
            self.store.discard(directory)
