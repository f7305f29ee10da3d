"""The training stage: the loop of :mod:`fusiondistill.training` between what the store holds and what it gets."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fusiondistill import checkpoints, evaluation
from fusiondistill.batches import Pipeline
from fusiondistill.data import ImageSet
from fusiondistill.randomness import key
from fusiondistill.recipe import Recipe
from fusiondistill.training import Progress, batch_mean_accuracy, train
from fusiondistill_runner.planning.specs import TrainSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import chosen_start, with_found
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.storage.progress import ProgressWriter
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.materials import (
    Context,
    card_for,
    image_size,
    load_into,
    new_network,
    run_facts,
    splits,
)
from fusiondistill_runner.working.metrics import EVENTS, LiveEvents, event_file

__all__ = ["Report", "pack", "resolve_recipe", "run_train", "unpack"]

Report = Callable[[dict[str, Any]], None]
"""Takes facts about a stage in progress: ``epoch``, ``epochs``, ``validation``, ..."""


def _found(stage: Stage, store: Store) -> dict[str, Any]:
    """What the search found that a training stage has among its inputs."""
    if "search" not in stage.inputs:
        return {}
    values: dict[str, Any] = json.loads(store.read(stage.inputs["search"], "best.json"))["values"]
    return values


def resolve_recipe(stage: Stage, store: Store) -> Recipe:
    """The recipe of a training stage, with what its search found laid over it."""
    assert isinstance(stage.spec, TrainSpec)
    return with_found(stage.spec.recipe, _found(stage, store))


class _Enough(Exception):
    """Training has come as far as it was asked to."""


def run_train(
    stage: Stage,
    context: Context,
    device: torch.device,
    report: Report,
    *,
    rank: int = 0,
    world_size: int = 1,
    until: int | None = None,
    closing: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]]:
    """Train, from the last stored epoch if there is one; returns the rows of metrics.

    Where not every epoch is stored (see :class:`ProgressWriter`), ``closing`` is asked whether this one has to be.
    With ``until`` it ends after that epoch, which is stored like any other; the next call goes on from there, with the
    bits of a training in one go. The stage is committed by whoever trains its last epoch.
    """
    spec = stage.spec
    assert isinstance(spec, TrainSpec)
    store = Store(context.store)
    began = time.time()
    writer = ProgressWriter(store, stage, checkpoints.new_attempt())  # before the inputs are read: it notes which
    start = unpack(_same_for_all(store.load_progress(stage) if rank == 0 else None, device, world_size))
    rows = list(start.rows) if start else []
    if until is not None and len(rows) >= until and until < spec.recipe.epochs:
        return rows[:until]
    recipe = resolve_recipe(stage, store)
    images, held_out = splits(spec.data, context.root(spec.data), spec.select)
    torch.manual_seed(key(stage.seed, "initial weights") & (2**63 - 1))
    model = new_network(spec.model, images)
    if "start" in stage.inputs:
        load_into(model, store, chosen_start(stage.inputs, _found(stage, store)))
    pipeline = _pipeline(spec, recipe, images, device, rank, world_size)
    teachers = []
    if pipeline.teacher_view:
        for d in spec.degradations:
            teachers.append(load_into(new_network(spec.model, images), store, stage.inputs[f"teacher-{d}"]))

    live = LiveEvents(
        None if store.remote or until else Path(store.path(stage.directory, f"events.{writer.attempt}.tfevents"))
    )

    def on_epoch(progress: Progress) -> None:
        rows[:] = progress.rows
        kept = progress.epoch == until or writer.due(progress.epoch, recipe.epochs) or closing()
        if kept:
            writer.save(progress.epoch, pack(progress))
        live.add(progress.rows)
        report({"epochs": recipe.epochs, "kept": kept, **progress.rows[-1]})
        if progress.epoch == until != recipe.epochs:
            raise _Enough

    for row in rows:
        report({"epochs": recipe.epochs, **({"resumed": 1} if row is rows[-1] else {}), **row})
    validation = _validation(spec, recipe, held_out, device) if held_out is not None and spec.select != "last" else None
    try:
        progress = train(
            model,
            recipe,
            pipeline,
            seed=spec.data_seed,
            teachers=teachers,
            validation=validation,
            start=start,
            on_epoch=on_epoch,
            sync_batchnorm=spec.sync_batchnorm,
        )
    except _Enough:
        return rows
    if rank == 0:
        _commit_training(stage, spec, recipe, progress, images, writer, context, began, device)
    return progress.rows


def _same_for_all(data: bytes | None, device: torch.device, world_size: int) -> bytes | None:
    """What rank 0 read, on every rank: a node may see an earlier state of the store than another.

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


def _pipeline(
    spec: TrainSpec, recipe: Recipe, images: ImageSet, device: torch.device, rank: int, world_size: int
) -> Pipeline:
    return Pipeline(
        images=images,
        degradations=spec.degradations,
        seed=spec.data_seed,
        batch_size=recipe.batch_size,
        flip=images.flip if spec.flip is None else spec.flip,
        padding=recipe.crop_padding,
        cutout=_cutout_side(spec, recipe, images),
        pairing=recipe.pairing or "independent",
        teacher_view=recipe.teacher_view if recipe.loss.needs.teacher else None,
        protocol=spec.protocol,
        device=device,
        rank=rank,
        world_size=world_size,
        channels_last=recipe.channels_last,
    )


def _cutout_side(spec: TrainSpec, recipe: Recipe, images: ImageSet) -> int:
    """Half the image; the original kept 16 for its last two rows at 64x64, too."""
    if recipe.cutout is not None:
        return recipe.cutout
    if spec.protocol == "paper" and spec.role in ("fusing", "fusiondistill"):
        return min(16, min(image_size(images)) // 2)
    return min(image_size(images)) // 2


def _validation(
    spec: TrainSpec, recipe: Recipe, held_out: ImageSet, device: torch.device
) -> Callable[[nn.Module], dict[str, float]]:
    score = batch_mean_accuracy if spec.protocol == "paper" else lambda right: float(right.double().mean())

    def validation(model: nn.Module) -> dict[str, float]:
        right = evaluation.validate(
            model,
            held_out,
            spec.degradations,
            seed=spec.data_seed,
            device=device,
            protocol=spec.protocol,
            channels_last=recipe.channels_last,
        )
        return {name: score(values) for name, values in right.items()}

    return validation


def pack(progress: Progress) -> bytes:
    """Progress as bytes that :func:`unpack` reads without unpickling freely."""
    stream = io.BytesIO()
    torch.save(vars(progress), stream)  # no copies: tensors that it holds twice are stored once
    return stream.getvalue()


def unpack(data: bytes | None) -> Progress | None:
    """What :func:`pack` made; None stays None."""
    return Progress(**torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)) if data else None


def _commit_training(
    stage: Stage,
    spec: TrainSpec,
    recipe: Recipe,
    progress: Progress,
    images: ImageSet,
    writer: ProgressWriter,
    context: Context,
    began: float,
    device: torch.device,
) -> None:
    import pyarrow as pa

    card = card_for(spec.model, images)
    log = [json.dumps({name: round(value, 6) for name, value in row.items()}) for row in progress.rows]
    files = {
        checkpoints.MODEL: checkpoints.to_safetensors(progress.best, card),
        "metrics.parquet": parquet_bytes(pa.Table.from_pylist(progress.rows)),
        EVENTS: event_file(progress.rows, time.time()),
        "log.txt": "\n".join([f"{stage.name}, seed {stage.seed}", *log, ""]).encode(),
    }
    outcome = {"epochs": progress.epoch, "best_epoch": progress.best_epoch, "select": spec.select}
    if "validation" in progress.rows[-1]:
        outcome["validation"] = progress.best_score
    facts = run_facts(began, context, device)
    facts["training_seconds"] = sum(row["seconds"] for row in progress.rows)
    facts |= {"card": card, "recipe": recipe.model_dump(mode="json"), "outcome": outcome}
    writer.store.commit(stage, files, facts, writer.attempt, writer.made_from)
