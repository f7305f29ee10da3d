"""One stage on a worker: the function of its kind makes the result from stored inputs, and the worker commits it.

:data:`WORK` is the table of these functions. No Ray.
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
from fusiondistill.memory import kept_memory
from fusiondistill.plugins import load_plugins
from fusiondistill_runner.planning.specs import (
    CheckpointSpec,
    EvaluateSpec,
    FitSpec,
    MergeSpec,
    PackSpec,
    PretrainedSpec,
    TrainSpec,
    ValidateSpec,
)
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.progress import ProgressWriter
from fusiondistill_runner.storage.store import ERROR, Store
from fusiondistill_runner.working.context import Context, Report
from fusiondistill_runner.working.evaluate import evaluate
from fusiondistill_runner.working.facts import run_facts
from fusiondistill_runner.working.import_checkpoint import import_checkpoint
from fusiondistill_runner.working.job import Inputs, Job, Result, Team, never
from fusiondistill_runner.working.merge import merge_networks
from fusiondistill_runner.working.pack import fit_part, pack_networks
from fusiondistill_runner.working.pretrained import take_pretrained
from fusiondistill_runner.working.train import train
from fusiondistill_runner.working.validate import validate

__all__ = ["WORK", "execute", "note_error", "open_store", "perform"]

WORK: Mapping[type, Callable[[Job], Result | None]] = {
    TrainSpec: train,
    MergeSpec: merge_networks,
    FitSpec: fit_part,
    PackSpec: pack_networks,
    EvaluateSpec: evaluate,
    ValidateSpec: validate,
    CheckpointSpec: import_checkpoint,
    PretrainedSpec: take_pretrained,
}
"""Class of a stage's spec -> the function that does the stage. ``searching`` does searches."""


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
        return  # a worker that the driver took for lost has done it
    load_plugins(context.plugins)
    perform(stage, store, context, device, report, closing=closing, team=Team(rank, world_size))


def open_store(context: Context) -> Store:
    """The store of a run. It has answered the driver, so a worker waits where it does not answer now."""
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
        """Make a merge that a search chose and no plan has; the first worker that needs the merge does so."""
        if isinstance(needed.spec, MergeSpec) and store.intact(needed) is not None:
            perform(needed, store, context, device, lambda facts: None)

    began = time.time()
    code_digest()  # computed now: the files may change while this process works
    if "start" in stage.inputs:
        make(stage.inputs["start"])
    # Made before the inputs are read, since it notes which attempts wrote them.
    progress = ProgressWriter(store, stage, checkpoints.new_attempt())
    inputs = Inputs(stage, store, make)
    with kept_memory(device):
        result = WORK[type(stage.spec)](Job(stage, context, device, inputs, progress, report, closing, team, until))
    if result is not None:
        facts: dict[str, Any] = {**run_facts(began, context, device), **result.facts}
        attempt = progress.attempt
        if isinstance(stage.spec, MergeSpec):
            # Trials that start alike may make one merge at the same time: both write the same, under the same names.
            attempt = checkpoints.digest(b"".join(result.files[name] for name in sorted(result.files)))[:8]
        store.commit(stage, result.files, facts, attempt, progress.made_from)


def note_error(stage: Stage, context: Context, error: str) -> None:
    """Write the error beside the files of the stage, if the store can be written."""
    store = Store(context.store)
    with contextlib.suppress(OSError):
        store.check_there()
        store.write(error.encode(), stage.directory, ERROR)
