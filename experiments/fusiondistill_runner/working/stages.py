"""What each stage does on a worker: train, fuse and recalibrate, evaluate, import. No Ray in sight.

A stage reads its inputs from the store and commits its result there; whatever it needs comes with it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from fusiondistill import checkpoints, evaluation
from fusiondistill.data import DataError, ImageSet
from fusiondistill.data.corruptions import corruption_digest, load_corruption
from fusiondistill.folding import for_inference
from fusiondistill.inference import combined
from fusiondistill.locations import be_patient
from fusiondistill.plugins import load_plugins
from fusiondistill.samples import png, sample_rows
from fusiondistill.state_dicts import average, distance, state_difference, with_statistics
from fusiondistill_runner.planning.stage import CheckpointSpec, EvaluateSpec, FuseSpec, Stage, TrainSpec
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.storage.store import ERROR, Store
from fusiondistill_runner.working.materials import (
    Context,
    card_for,
    image_size,
    load_data,
    new_network,
    run_facts,
    splits,
)
from fusiondistill_runner.working.training import Report, run_train

__all__ = ["execute", "note_error"]

SAMPLES = "samples.parquet"
ALPHAS = (0.0, 0.25, 0.5, 0.75)
"""Between an expert and the fused network, where their loss is looked at; and at the fused network itself."""


def execute(
    stage: Stage,
    context: Context,
    device: torch.device,
    report: Report,
    *,
    rank: int = 0,
    world_size: int = 1,
    closing: Callable[[], bool] = lambda: False,
) -> None:
    """Do a stage and store its result (on rank 0)."""
    be_patient()  # whoever sent it here had an answer from the store
    store = Store(context.store)
    store.check_there()
    if rank == 0:
        store.forget_error(stage)
    if world_size == 1 and store.intact(stage) is None:
        return  # a worker that was taken for lost came to its end
    load_plugins(context.plugins)
    spec = stage.spec
    if not isinstance(spec, CheckpointSpec):
        torch.set_num_threads(getattr(spec, "threads", 1))
    if isinstance(spec, TrainSpec):
        run_train(stage, context, device, report, rank=rank, world_size=world_size, closing=closing)
    elif isinstance(spec, FuseSpec):
        _run_fuse(stage, spec, context, device)
    elif isinstance(spec, EvaluateSpec):
        _run_evaluate(stage, spec, context, device)
    elif isinstance(spec, CheckpointSpec):
        _run_import(stage, spec, context)
    else:
        raise TypeError(f"a {stage.kind} stage is not for a worker")


def note_error(stage: Stage, context: Context, error: str) -> None:
    """Leave the reason beside what the stage had stored; a store that cannot be written keeps the first error."""
    store = Store(context.store)
    with contextlib.suppress(OSError):
        store.check_there()
        store.write(error.encode(), stage.directory, ERROR)


def _run_fuse(stage: Stage, spec: FuseSpec, context: Context, device: torch.device) -> None:
    store, began = Store(context.store), time.time()
    made_from = store.made_from(stage)
    experts = {d: store.weights(stage.inputs[f"expert-{d}"])[0] for d in spec.degradations}
    base, card = store.weights(stage.inputs["base"])
    images, held_out = splits(spec.data, context.root(spec.data), "validation")
    mixed = partial(evaluation.mixed_batches, seed=spec.data_seed, device=device, protocol=spec.protocol)
    sample = images.take(min(spec.images, len(images)))
    at = At(
        base=base,
        names=spec.degradations,
        network=lambda state: _loaded(card, dict(state), device),
        batches=lambda name: mixed(sample, (name,)),
        validation=None if held_out is None else lambda name: mixed(held_out, (name,)),
        seed=spec.data_seed,
        device=device,
    )
    fused = merge(list(experts.values()), spec.method, at=at)
    if spec.recalibrate == "none":
        fused = with_statistics(fused, list(experts.values()), "first")
    network = checkpoints.from_card(fused, card).network.to(device)
    names = (spec.told,) if spec.told else spec.degradations
    if spec.recalibrate == "mixed":
        recalibrate_batchnorm(network, (pixels for pixels, _ in mixed(sample, names)))
    judged = held_out if held_out is not None else images.take(min(2000, len(images)))
    losses = {d: _loss(_loaded(card, state, device), mixed(judged, names)) for d, state in experts.items()}
    barrier = _loss(network.eval(), mixed(judged, names)) - sum(losses.values()) / len(losses)
    outcome = {
        "distance": {d: distance(state, base) for d, state in experts.items()},
        "barrier": barrier,
        "expert_loss": losses,
        "judged_on": "validation" if held_out is not None else "training images",
        "method": spec.method,
        "recalibrate": spec.recalibrate,
        "told": spec.told,
        "surface": _surface(
            experts, network, card, device, training=images, judged=judged, mixed=partial(mixed, degradations=names)
        ),
    }
    files = {checkpoints.MODEL: checkpoints.to_safetensors(network.state_dict(), card)}
    facts = {**run_facts(began, context, device), "card": card, "outcome": outcome}
    store.commit(stage, files, facts, checkpoints.new_attempt(), made_from)


def _surface(
    experts: dict[str, dict[str, torch.Tensor]],
    fused: nn.Module,
    card: dict[str, Any],
    device: torch.device,
    *,
    training: ImageSet,
    judged: ImageSet,
    mixed: Callable[[ImageSet], Iterable[tuple[torch.Tensor, torch.Tensor]]],
) -> dict[str, list[list[float]]]:
    """The loss on the straight way from each expert to the fused network: expert -> rows of (alpha, nats).

    Alpha is the share of the fused network. BatchNorm is recomputed at every point (interpolated statistics fit no
    network on the way), on 256 degraded training images; the loss is that on 500 of the degraded images that the
    stage judges by: so few that the curve costs little, so where it starts and ends is near the losses of the stage,
    not equal.
    """

    def few(of: ImageSet, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(mixed(of.take(min(len(of), max(2, count // len(experts))))))

    sample, seen = few(training, 256), few(judged, 500)
    end = {name: tensor.cpu() for name, tensor in fused.state_dict().items()}

    def loss(state: dict[str, torch.Tensor]) -> float:
        network = _loaded(card, state, device)
        return _loss(recalibrate_batchnorm(network, (pixels for pixels, _ in sample)), seen)

    last = [1.0, loss(end)]
    return {
        name: [*([alpha, loss(average([state, end], [1 - alpha, alpha]))] for alpha in ALPHAS), last]
        for name, state in experts.items()
    }


def _loaded(card: dict[str, Any], state: dict[str, torch.Tensor], device: torch.device) -> nn.Module:
    return checkpoints.from_card(state, card).network.to(device).eval()


@torch.no_grad()
def _loss(network: nn.Module, batches: Any) -> float:
    """Mean cross-entropy of a network over labelled batches, in nats."""
    total, count = 0.0, 0
    for pixels, labels in batches:
        total += float(nn.functional.cross_entropy(network(pixels), labels, reduction="sum"))
        count += len(labels)
    return total / count


def _run_evaluate(stage: Stage, spec: EvaluateSpec, context: Context, device: torch.device) -> None:
    store, began = Store(context.store), time.time()
    made_from = store.made_from(stage)
    models = {role: _classifier(context.store, needed, device, spec.precision) for role, needed in stage.inputs.items()}
    model = next(iter(models.values())) if len(models) == 1 else combined("vote", models)
    judged, labels, samples = _judged(model, spec, context)
    right = judged.right(labels)
    files = {**_evaluation_files(judged, labels, spec.levels), **_sample_files(samples, labels)}
    facts = run_facts(began, context, device)
    facts["outcome"] = {"accuracy": int(right.sum()) / max(1, right.numel()), "images": len(labels)}
    store.commit(stage, files, facts, checkpoints.new_attempt(), made_from)


Samples = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Level -> (rows of the test split, int64 [n]; their pixels as the model saw them, uint8 [n,3,H,W])."""


def _judged(model: nn.Module, spec: EvaluateSpec, context: Context) -> tuple[evaluation.Judged, torch.Tensor, Samples]:
    """What a model says of the test images at every level, their labels, and a few of the images."""
    if spec.corruption is not None:
        return _judged_corruption(model, spec, spec.corruption, context)
    images = load_data(spec.data, context.root(spec.data), "test")
    conditions = evaluation.Conditions(
        spec.degradation, spec.levels, spec.noise_seed, context.evaluation_batch, spec.protocol
    )
    judged = evaluation.judge(model, images, conditions)
    rows = sample_rows(images.labels, image_size(images))
    clean, _ = images.gather(rows)
    shown = {level: (rows, conditions.shown(clean, rows, level)) for level in spec.shown}
    return judged, images.labels, shown


def _judged_corruption(
    model: nn.Module, spec: EvaluateSpec, digest: str, context: Context
) -> tuple[evaluation.Judged, torch.Tensor, Samples]:
    """The same for a published set, whose images are degraded already; its levels are severities."""
    images = load_data(spec.data, context.root(spec.data), "test")
    name = spec.degradation.removeprefix("c-")
    folder = context.corruption_folder(digest)
    if corruption_digest(folder, name) != digest:
        raise DataError(
            f"the corruption set on {socket.gethostname()} ({folder}) is not the one that this run was "
            f"planned with: copy the same {name}.npy and labels.npy to every node"
        )
    sets = [load_corruption(folder, name, severity, len(images.classes)) for severity in spec.levels]
    labels = sets[0][1]
    pixels = [one for one, _ in sets]
    judged = evaluation.judge_images(model, pixels, labels, batch_size=context.evaluation_batch)
    rows = sample_rows(labels, (pixels[0].shape[2], pixels[0].shape[3]))
    return judged, labels, {level: (rows, pixels[spec.levels.index(level)][rows]) for level in spec.shown}


def _sample_files(samples: Samples, labels: torch.Tensor) -> dict[str, bytes]:
    """A few test images as the model saw them, one row each; nothing where no level of the stage is to be shown."""
    import pyarrow as pa

    shown = [(level, rows, images) for level, (rows, images) in samples.items()]
    if not shown:
        return {}
    columns = {
        "level": pa.array([level for level, rows, _ in shown for _ in rows], pa.int64()),
        "index": pa.array([int(row) for _, rows, _ in shown for row in rows], pa.int64()),
        "label": pa.array([int(labels[row]) for _, rows, _ in shown for row in rows], pa.int16()),
        "image": pa.array([png(image) for *_, images in shown for image in images], pa.binary()),
    }
    return {SAMPLES: parquet_bytes(pa.table(columns))}


def _evaluation_files(judged: evaluation.Judged, labels: torch.Tensor, levels: Sequence[int]) -> dict[str, bytes]:
    """The tables of an evaluation: a row per level with counts and means, the predictions, and a row per image."""
    import numpy as np
    import pyarrow as pa

    right = judged.right(labels)
    count, n = len(levels), len(labels)
    level = pa.array(levels, pa.int64())
    counts = {
        "level": level,
        "right": pa.array(right.sum(1).numpy(), pa.int64()),
        "seen": pa.array([n] * count, pa.int64()),
        "nll": pa.array(judged.mean_nll(), pa.float64()),
        "ece": pa.array(judged.calibration_error(labels), pa.float64()),
    }
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * n)
    said = pa.array(judged.predictions.to(torch.int16).flatten().numpy())
    predictions = {"level": level, "predictions": pa.ListArray.from_arrays(offsets, said)}
    images = {
        "label": pa.array(labels.to(torch.int16).numpy()),
        "right": pa.array(right.sum(0).to(torch.int16).numpy()),
    }
    tables = {"counts.parquet": counts, "predictions.parquet": predictions, "images.parquet": images}
    return {name: parquet_bytes(pa.table(columns)) for name, columns in tables.items()}


@lru_cache(maxsize=12)
def _cached_classifier(store: str, directory: str, digest: str, device: str, precision: str) -> nn.Module:
    place = Store(store)
    manifest = place.manifest_of(directory)
    if manifest is None or manifest["digest"] != digest:
        raise checkpoints.CheckpointError(f"{directory} is not stored in {store}")
    data = place.read_from(directory, checkpoints.MODEL)
    state, card = checkpoints.parse_weights(data, f"{directory}/{checkpoints.MODEL}")
    return for_inference(checkpoints.from_card(state, card, directory), precision=precision).to(device)


def _classifier(store: str, stage: Stage, device: torch.device, precision: str) -> nn.Module:
    """A stored model ready to judge images; kept by the worker, since its degradations come one after another."""
    return _cached_classifier(store, stage.directory, stage.digest, str(device), precision)


def _run_import(stage: Stage, spec: CheckpointSpec, context: Context) -> None:
    """Check that an existing checkpoint fits the network, and take it into the store."""
    began = time.time()
    state, card = checkpoints.load_checkpoint(spec.path)
    if checkpoints.checkpoint_digest(spec.path) != spec.sha256:
        raise checkpoints.CheckpointError(
            f"{spec.path} is no longer the checkpoint that this run was planned with: start the run again"
        )
    if card:
        checkpoints.check_card(card, spec.path)
    images = load_data(spec.data, context.root(spec.data), "train")
    if (known := card.get("classes")) not in (None, list(images.classes)):
        raise checkpoints.CheckpointError(
            f"{spec.path} was trained for other classes ({len(known)}: {', '.join(map(str, known[:3]))}, ...) "
            f"than {spec.data.name} has ({len(images.classes)}: {', '.join(images.classes[:3])}, ...)"
        )
    network = new_network(spec.model, images)
    if difference := state_difference(network.state_dict(), state):
        raise checkpoints.CheckpointError(f"{spec.path} does not fit {spec.model.name}: {difference}")
    ours = card_for(spec.model, images)
    for what in ("mean", "std"):
        if card and any(abs(a - b) > 0.5 for a, b in zip(card[what], ours[what], strict=True)):
            raise checkpoints.CheckpointError(
                f"{spec.path} was trained with {what} {card[what]}, {spec.data.name} has {ours[what]}: "
                f"give data.{what} as the checkpoint has it"
            )
    files = {checkpoints.MODEL: checkpoints.to_safetensors(state, ours)}
    facts = {**run_facts(began, context, torch.device("cpu")), "card": ours, "outcome": {"imported": spec.path}}
    Store(context.store).commit(stage, files, facts, checkpoints.new_attempt())
