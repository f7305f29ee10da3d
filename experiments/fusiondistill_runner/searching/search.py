"""A search through Ray: it proposes trials when workers ask for them, and stops the weak ones early.

Every trial is judged on the validation split after each epoch. :class:`Trials` knows which candidate is next, Ray
Tune's ASHA which one is stopped. The trials are tasks of the driver's queue, so they share the workers with all other
stages, and a worker that has trained one keeps its data for the next. What happens to them comes through an inbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from importlib import import_module
from queue import SimpleQueue
from typing import Any, Protocol

from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import spec_of
from fusiondistill_runner.searching.asha import Asha, rungs
from fusiondistill_runner.searching.journal import Candidate
from fusiondistill_runner.searching.trials import Trials
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context, Report
from fusiondistill_runner.working.trial import metrics_of

__all__ = ["Inbox", "News", "import_ahead", "run"]


class News(Protocol):
    """What a search hears of a trial: started, progress, done, failed or lost; ``wanted``: a worker asks for one."""

    @property
    def kind(self) -> str:
        """What happened."""

    @property
    def digest(self) -> str:
        """The trial's key, ``<digest of the search>#<number>``; of ``wanted`` the search's digest."""

    @property
    def facts(self) -> dict[str, Any]:
        """The metrics of an epoch, or an error."""


Inbox = SimpleQueue[News | None]
"""None: the run is at its end."""


def import_ahead() -> None:
    """Import what a search needs at its start and at its end, so that no worker waits for it then."""
    for name in ("sklearn.ensemble", "sklearn.inspection", "ray.tune.schedulers"):
        import_module(name)


def run(
    stage: Stage,
    context: Context,
    *,
    report: Report,
    expect: Callable[[int, Collection[int]], Any],
    offer: Callable[[int, dict[str, Any]], Any],
    judge: Callable[[str, int, bool], Any],
    inbox: Inbox,
) -> None:
    """Run the trials and store ``trials.parquet``, ``epochs.parquet`` and ``best.json``.

    Args:
        stage: the search stage; its inputs are those of the distillation.
        report: called with the number of finished trials and the best accuracy so far.
        expect: called with the most trials that are still to come, and the epochs after which they wait for a verdict.
        offer: called with number and values of a candidate for the queue.
        judge: called with a trial, an epoch, and whether the trial goes on after it.
        inbox: the news.

    Raises:
        RuntimeError: no trial came to a result, or the run is at its end.
    """
    spec = spec_of(stage)
    epochs = spec.train.recipe.epochs
    asha = Asha(epochs) if spec.scheduler == "asha" and rungs(epochs) else None
    judged = asha.rungs if asha else frozenset[int]()
    trials = Trials(stage, Store(context.store), asha, report)
    under_way: dict[str, Candidate] = {}
    if trials.any_left():
        expect(spec.candidates - sum(one.ended for one in trials.journal.candidates), judged)
    while under_way or trials.any_left():
        if (news := inbox.get()) is None:
            raise RuntimeError("the run is at its end")
        if news.kind == "wanted":
            if (candidate := trials.next()) is None:
                expect(0, judged)
                continue
            under_way[f"{stage.digest}#{candidate.number}"] = candidate
            offer(candidate.number, candidate.values)
        elif (candidate := under_way.get(news.digest)) is not None:
            verdict = _noted(trials, candidate, news, asha)
            if verdict is not None:
                judge(news.digest, int(news.facts["epoch"]), verdict)
            if candidate.ended:
                del under_way[news.digest]
        elif news.kind == "progress":  # of a trial that the search had proposed before it was started again
            judge(news.digest, int(news.facts["epoch"]), False)
    trials.commit()


def _noted(trials: Trials, candidate: Candidate, news: News, asha: Asha | None) -> bool | None:
    """Note what happened to a trial; whether it goes on after an epoch, None where the search does not ask."""
    facts = news.facts
    if news.kind == "started" and not candidate.rows:
        candidate.started = time.time()
    elif news.kind == "progress" and "validation" in facts:
        candidate.rows[int(facts["epoch"])] = metrics_of(facts)
        trials.say()
        if asha is not None:
            return asha.goes_on(candidate.number, int(facts["epoch"]), facts["validation"])
    elif news.kind == "done":
        trials.end(candidate)
    elif news.kind == "failed":
        trials.end(candidate, facts["error"].splitlines()[-1])
    return None
