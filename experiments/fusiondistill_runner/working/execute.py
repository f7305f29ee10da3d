"""One stage on a worker: its inputs come from the store, the function of its kind makes the result, which is committed.

:data:`WORK` is the table of these functions. No Ray in sight.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fusiondistill import checkpoints
from fusiondistill.code import code_digest
from fusiondistill.locations import be_patient
from fusiondistill.plugins import load_plugins
from fusiondistill_runner.planning.specs import CheckpointSpec, EvaluateSpec, MergeSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.progress import ProgressWriter
from fusiondistill_runner.storage.store import ERROR, Store
from fusiondistill_runner.working.context import Context, Report
from fusiondistill_runner.working.evaluate import evaluate
from fusiondistill_runner.working.facts import run_facts
from fusiondistill_runner.working.import_checkpoint import import_checkpoint
from fusiondistill_runner.working.job import Inputs, Job, Result, Team, never
from fusiondistill_runner.working.merge import merge_networks
from fusiondistill_runner.working.train import train

__all__ = ["WORK", "execute", "note_error", "open_store", "perform"]

WORK: Mapping[type, Callable[[Job], Result | None]] = {
    TrainSpec: train,
    MergeSpec: merge_networks,
    EvaluateSpec: evaluate,
    CheckpointSpec: import_checkpoint,
}
"""What a stage's spec is -> the function that does it. A search is no work for one worker: see ``searching``."""


def execute(
    stage: Stage,
    context: Context,
    device: torch.device,
    report: Report,
    *,
    rank: int = 0,
    world_size: int = 1,
    closing: Callable[[], bool] = never,
) -> None:
    """Do a stage and store its result (on rank 0).

    Args:
        report: told how far it is.
        rank, world_size: this worker's place among those that do the stage together.
        closing: whether the run is about to end, so that the current epoch has to be stored.

    Raises:
        TypeError: the stage is none for a worker.
    """
    store = open_store(context)
    if rank == 0:
        store.forget_error(stage)
    if world_size == 1 and store.intact(stage) is None:
        return  # a worker that was taken for lost came to its end
    load_plugins(context.plugins)
    perform(stage, store, context, device, report, closing=closing, team=Team(rank, world_size))


def open_store(context: Context) -> Store:
    """The store of a run, which had answered its driver: a worker waits for one that does not answer now."""
    be_patient()
    store = Store(context.store)
    store.check_there()
    return store


def perform(
    stage: Stage,
    store: Store,
    context: Context,
    device: torch.device,
    report: Report,
    *,
    closing: Callable[[], bool] = never,
    team: Team = Team(),  # noqa: B008
    until: int | None = None,
) -> None:
    """Do a stage whose inputs are stored, and commit its result.

    Args:
        until: a training stops after this epoch, which is stored; the next call goes on from there.
    """
    if type(stage.spec) not in WORK:
        raise TypeError(f"a {stage.kind} stage is not for a worker")
    if threads := getattr(stage.spec, "threads", None):
        torch.set_num_threads(threads)

    def make(needed: Stage) -> None:
        """A merge that no plan has, since a search chose it, is made by the first worker that needs it."""
        if isinstance(needed.spec, MergeSpec) and store.intact(needed) is not None:
            perform(needed, store, context, device, lambda facts: None)

    began = time.time()
    code_digest()  # of the files as this process has them; they may change while it works
    if "start" in stage.inputs:
        make(stage.inputs["start"])
    # Before the inputs are read: it notes which they are.
    progress = ProgressWriter(store, stage, checkpoints.new_attempt())
    inputs = Inputs(stage, store, make)
    result = WORK[type(stage.spec)](Job(stage, context, device, inputs, progress, report, closing, team, until))
    if result is not None:
        facts: dict[str, Any] = {**run_facts(began, context, device), **result.facts}
        attempt = progress.attempt
        if isinstance(stage.spec, MergeSpec):
            # Trials that start alike may make one merge at the same time: both write the same, under the same names.
            attempt = checkpoints.digest(b"".join(result.files[name] for name in sorted(result.files)))[:8]
        store.commit(stage, result.files, facts, attempt, progress.made_from)


def note_error(stage: Stage, context: Context, error: str) -> None:
    """Leave the reason beside what the stage had stored; a store that cannot be written keeps the first error."""
    store = Store(context.store)
    with contextlib.suppress(OSError):
        store.check_there()
        store.write(error.encode(), stage.directory, ERROR)
