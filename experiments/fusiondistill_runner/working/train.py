"""The training stage: :class:`fusiondistill.fitting.Training` between the inputs, the stored epochs and the result."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fusiondistill import checkpoints
from fusiondistill.feeding import fits
from fusiondistill.fitting import Training, random_network
from fusiondistill.progress import Progress
from fusiondistill.recipe import Recipe
from fusiondistill_runner.planning.specs import TrainSpec
from fusiondistill_runner.planning.trials import chosen_start, with_found
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.working.context import Place
from fusiondistill_runner.working.data import splits
from fusiondistill_runner.working.job import Job, Result, Team
from fusiondistill_runner.working.metrics import EVENTS, LiveEvents, event_file
from fusiondistill_runner.working.networks import card_for, filled, new_network

__all__ = ["pack", "train", "training_of", "unpack"]


class _Enough(Exception):
    """Training has come as far as it was asked to."""


def train(job: Job) -> Result | None:
    """Train, from the last stored epoch if there is one; None on ranks above 0, and before the last epoch.

    Every epoch is a function of its number and of the state before it, so a training that stops and goes on has the
    bits of a training in one go.
    """
    spec = job.stage.spec
    assert isinstance(spec, TrainSpec)
    team, device = job.team, job.device
    stored = job.progress.store.load_progress(job.stage) if team.rank == 0 else None
    before = unpack(_same_for_all(stored, device, team.world_size))
    rows = before.rows if before else []
    for row in rows:
        job.report({"epochs": spec.last, **({"resumed": 1} if row is rows[-1] else {}), **row})
    if job.until is not None and job.until <= len(rows) < spec.recipe.epochs:
        return None
    found = job.inputs.found("search")
    recipe = with_found(spec.recipe, found)
    root = job.context.root(spec.data)
    training = training_of(
        spec, root, device, recipe=recipe, team=team, capture=job.context.capture, share=job.context.share
    )
    images = training.images
    images_in = "memory" if fits(images, device) else "the cache's file, read ahead of need"
    model = spec.model
    network = random_network(
        model.name, len(images.classes), job.stage.seed, model.feature_layer, model.parameters
    )  # fmt: skip
    if "start" in job.inputs.stages:
        start = chosen_start(job.inputs.stages["start"], found)
        filled(network, job.inputs.weights_of(start), start.directory)
    teachers = [
        filled(new_network(model, images), job.inputs.weights(role)[0], job.inputs.stages[role].directory)
        for role in (f"teacher-{name}" for name in training.taught)
    ]
    try:
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            job.report({"note": text, "kept": False})

        progress = training.run(network, teachers, start=before, on_epoch=_EpochEnd(job, spec.last), say=say)
    except _Enough:
        return None
    if team.rank:
        return None
    result = _result(job, spec, recipe, progress, card_for(model, images, spec.data), said)
    more = {"images_in": images_in, "channels_last": progress.channels_last, **({"notes": said} if said else {})}
    return replace(result, facts={**result.facts, **more})


def training_of(
    spec: TrainSpec,
    root: Place,
    device: torch.device,
    *,
    recipe: Recipe | None = None,
    team: Team = Team(),  # noqa: B008
    capture: bool = True,
    share: float = 1.0,
) -> Training:
    """The training that a spec describes.

    Args:
        root: where the images lie.
        recipe: in place of the spec's, where a search has found another.
        team: the workers that do it together.
        capture: whether steps on CUDA become graphs.
        share: of a GPU that is the worker's own.
    """
    images, held_out = splits(spec.data, root, spec.select)
    return Training(
        recipe=recipe or spec.recipe,
        images=images,
        held_out=None if spec.select == "last" else held_out,
        degradations=spec.degradations,
        seed=spec.data_seed,
        protocol=spec.protocol,
        flip=spec.flip,
        device=device,
        rank=team.rank,
        world_size=team.world_size,
        sync_batchnorm=spec.sync_batchnorm,
        capture=capture,
        share=share,
        taught_by=spec.taught_by,
        together=spec.together,
        span=spec.span,
    )


class _EpochEnd:
    """Called after each epoch: stores it where it is due, and reports it."""

    def __init__(self, job: Job, epochs: int) -> None:
        self.job, self.epochs = job, epochs
        store, attempt = job.progress.store, job.progress.attempt
        followed = not (store.remote or job.until)
        name = f"events.{attempt}.tfevents"
        self.live = LiveEvents(Path(store.path(job.stage.directory, name)) if followed else None)

    def __call__(self, progress: Progress) -> None:
        job, writer, last = self.job, self.job.progress, progress.epoch == self.job.until
        kept = last or writer.due(progress.epoch, self.epochs) or job.closing()
        if kept:
            writer.save(progress.epoch, pack(progress))
        self.live.add(progress.rows)
        job.report({"epochs": self.epochs, "kept": kept, **progress.rows[-1]})
        if last and progress.epoch != self.epochs:
            raise _Enough


def _same_for_all(data: bytes | None, device: torch.device, world_size: int) -> bytes | None:
    """The bytes that rank 0 read, on every rank: another node may see an earlier state of the store.

    Sent as plain bytes: torch's ways to send objects unpickle what comes in.
    """
    if world_size == 1:
        return data
    size = torch.tensor(len(data or b""), device=device)
    torch.distributed.broadcast(size, src=0)
    if not int(size):
        return None
    held = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(int(size), dtype=torch.uint8)
    held = held.to(device)
    torch.distributed.broadcast(held, src=0)
    return held.cpu().numpy().tobytes()


def pack(progress: Progress) -> bytes:
    """Progress as bytes that hold plain tensors and numbers only."""
    stream = io.BytesIO()
    torch.save(vars(progress), stream)  # no copies: tensors that it holds twice are stored once
    return stream.getvalue()


def unpack(data: bytes | None) -> Progress | None:
    """What :func:`pack` made; None stays None."""
    return Progress(**torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)) if data else None


def _result(
    job: Job, spec: TrainSpec, recipe: Recipe, progress: Progress, card: dict[str, Any], said: Sequence[str]
) -> Result:
    import pyarrow as pa

    log = [json.dumps({name: round(value, 6) for name, value in row.items()}) for row in progress.rows]
    files = {
        checkpoints.MODEL: checkpoints.to_safetensors(progress.best, card),
        "metrics.parquet": parquet_bytes(pa.Table.from_pylist(progress.rows)),
        EVENTS: event_file(progress.rows, time.time()),
        "log.txt": "\n".join([f"{job.stage.name}, seed {job.stage.seed}", *said, *log, ""]).encode(),
    }
    outcome = {"epochs": progress.epoch, "best_epoch": progress.best_epoch, "select": spec.select}
    if "validation" in progress.rows[-1]:
        outcome["validation"] = progress.best_score
    seconds = sum(row["seconds"] for row in progress.rows)
    facts = {"training_seconds": seconds, "card": card, "recipe": recipe.model_dump(mode="json"), "outcome": outcome}
    return Result(files, facts)
