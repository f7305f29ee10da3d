"""What each stage does on a worker: train, fuse and recalibrate, evaluate, import. No Ray in sight.

A stage reads its inputs from the store and commits its result there; whatever it needs comes with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from experiments.plan import CheckpointSpec, DataSpec, EvaluateSpec, FuseSpec, Stage, TrainSpec
from experiments.store import ERROR, Store, parquet_bytes
from fusiondistill import checkpoints, evaluation, fusion
from fusiondistill.batches import Pipeline
from fusiondistill.config import ModelConfig, Recipe, with_keys
from fusiondistill.data import DataError, ImageSet, fingerprint, load_images
from fusiondistill.models import Ensemble, build_model
from fusiondistill.randomness import key
from fusiondistill.training import Progress, batch_mean_accuracy, train

__all__ = ["Context", "execute", "load_data", "load_plugins", "note_error", "resolve_recipe", "run_train"]

Report = Callable[[dict[str, Any]], None]
"""Takes facts about a stage in progress: ``epoch``, ``epochs``, ``validation``, ..."""


@dataclass(frozen=True)
class Context:
    """Where a stage runs, which cannot change its result."""

    store: str
    data_root: str | None = None
    evaluation_batch: int = 500
    plugins: tuple[tuple[str, str], ...] = ()
    """(file name, source) of each plugin."""
    worker: str = "local"


def execute(
    stage: Stage, context: Context, device: torch.device, report: Report, *, rank: int = 0, world_size: int = 1
) -> None:
    """Do a stage and store its result (on rank 0)."""
    load_plugins(context.plugins)
    spec = stage.spec
    if not isinstance(spec, CheckpointSpec):
        torch.set_num_threads(getattr(spec, "threads", 1))
    if isinstance(spec, TrainSpec):
        run_train(stage, context, device, report, rank=rank, world_size=world_size)
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
    with contextlib.suppress(OSError):
        Store(context.store).write(error.encode(), stage.directory, ERROR)


@lru_cache(maxsize=8)
def load_plugins(plugins: tuple[tuple[str, str], ...]) -> None:
    """Run the users' files that register degradations; once per process."""
    for name, source in plugins:
        exec(compile(source, name, "exec"), {"__name__": f"fusiondistill_plugin_{name}", "__file__": name})


@lru_cache(maxsize=4)
def _load_split(name: str, split: str, root: str | None, expected: str) -> ImageSet:
    found = fingerprint(name, root=root)
    if found != expected:
        raise DataError(
            f"the data set {name!r} on {socket.gethostname()} is not the one that this run was planned with "
            f"(fingerprint {found[:12]}, planned {expected[:12]}): copy the same files to every node"
        )
    return load_images(name, split, root)


def load_data(data: DataSpec, root: str | None, split: str) -> ImageSet:
    """The images of a split, cut down to what the run uses; the same object again within a process."""
    images = _load_split(data.name, split, root, data.fingerprint)
    wanted = data.train_images if split == "train" else data.test_images
    return images if wanted is None or wanted >= len(images) else images.take(wanted)


def _splits(data: DataSpec, root: str | None, select: str) -> tuple[ImageSet, ImageSet | None]:
    """(training images, images that the epoch is chosen on)."""
    images = load_data(data, root, "train")
    held_out = None
    if data.held_out:
        images, held_out = images.holdout(data.held_out, data.holdout_seed)
    if select == "test":
        held_out = load_data(data, root, "test")
    return images, held_out


def resolve_recipe(stage: Stage, store: Store) -> Recipe:
    """The recipe of a training stage, with what its search found laid over it."""
    assert isinstance(stage.spec, TrainSpec)
    if "search" not in stage.inputs:
        return stage.spec.recipe
    found = json.loads(store.read(stage.inputs["search"], "best.json"))
    return with_keys(stage.spec.recipe, found["values"])


def _network(model: ModelConfig, images: ImageSet) -> nn.Module:
    return build_model(model.name, len(images.classes), feature_layer=model.feature_layer)


def _load_into(network: nn.Module, store: Store, source: Stage) -> nn.Module:
    state, _ = store.weights(source)
    if difference := fusion.state_difference(network.state_dict(), state):
        raise checkpoints.CheckpointError(f"the weights of {source.directory} do not fit the network: {difference}")
    network.load_state_dict(state)
    return network


def _size(images: ImageSet) -> tuple[int, int]:
    height, width = images.gather([0])[0].shape[2:]
    return height, width


def _card(model: ModelConfig, images: ImageSet) -> dict[str, Any]:
    height, width = _size(images)
    return checkpoints.card_of(
        model.name,
        model.feature_layer,
        classes=list(images.classes),
        mean=tuple(images.mean),
        std=tuple(images.std),
        size=(height, width),
        dataset=images.name,
    )


def run_train(
    stage: Stage, context: Context, device: torch.device, report: Report, *, rank: int = 0, world_size: int = 1
) -> list[dict[str, float]]:
    """Train, from the last stored epoch if there is one; returns the rows of metrics."""
    spec = stage.spec
    assert isinstance(spec, TrainSpec)
    store = Store(context.store)
    began, attempt = time.time(), checkpoints.new_attempt()
    recipe = resolve_recipe(stage, store)
    images, held_out = _splits(spec.data, context.data_root, spec.select)
    torch.manual_seed(key(stage.seed, "initial weights") & (2**63 - 1))
    model = _network(spec.model, images)
    if "start" in stage.inputs:
        _load_into(model, store, stage.inputs["start"])
    pipeline = _pipeline(spec, recipe, images, device, rank, world_size)
    teachers = []
    if pipeline.teacher_view:
        for d in spec.degradations:
            teachers.append(_load_into(_network(spec.model, images), store, stage.inputs[f"teacher-{d}"]))

    def on_epoch(progress: Progress) -> None:
        store.save_progress(stage, progress.epoch, _pack(progress), attempt)
        report({"epochs": recipe.epochs, **progress.rows[-1]})

    start = _unpack(store.load_progress(stage))
    if start:
        report({"epochs": recipe.epochs, "resumed": start.epoch, **start.rows[-1]})
    validation = _validation(spec, recipe, held_out, device) if held_out is not None and spec.select != "last" else None
    progress = train(
        model,
        recipe,
        pipeline,
        seed=spec.data_seed,
        teachers=teachers,
        validation=validation,
        start=start,
        on_epoch=on_epoch,
    )
    if rank == 0:
        _commit_training(stage, spec, recipe, progress, images, store, context, began, attempt, device)
    return progress.rows


def _pipeline(
    spec: TrainSpec, recipe: Recipe, images: ImageSet, device: torch.device, rank: int, world_size: int
) -> Pipeline:
    needs_teacher = bool(recipe.loss.feature or recipe.loss.kd)
    return Pipeline(
        images=images,
        degradations=spec.degradations,
        seed=spec.data_seed,
        batch_size=recipe.batch_size,
        flip=images.flip if spec.flip is None else spec.flip,
        padding=recipe.crop_padding,
        cutout=_cutout_side(spec, recipe, images),
        pairing=recipe.pairing or "independent",
        teacher_view=recipe.teacher_view if needs_teacher else None,
        protocol=spec.protocol,
        device=device,
        rank=rank,
        world_size=world_size,
        channels_last=recipe.channels_last,
    )


def _cutout_side(spec: TrainSpec, recipe: Recipe, images: ImageSet) -> int:
    """Half the image; the original kept 16 for its last two rows whatever the size."""
    if recipe.cutout is not None:
        return recipe.cutout
    if spec.protocol == "paper" and spec.role in ("fusing", "fusiondistill"):
        return 16
    return min(_size(images)) // 2


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


def _pack(progress: Progress) -> bytes:
    stream = io.BytesIO()
    torch.save(asdict(progress), stream)
    return stream.getvalue()


def _unpack(data: bytes | None) -> Progress | None:
    return Progress(**torch.load(io.BytesIO(data), weights_only=True)) if data else None


def _facts(began: float, context: Context, device: torch.device) -> dict[str, Any]:
    import torchvision

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "started": began,
        "finished": time.time(),
        "seconds": time.time() - began,
        "host": socket.gethostname(),
        "worker": f"{context.worker} (process {os.getpid()})",
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }


def _commit_training(
    stage: Stage,
    spec: TrainSpec,
    recipe: Recipe,
    progress: Progress,
    images: ImageSet,
    store: Store,
    context: Context,
    began: float,
    attempt: str,
    device: torch.device,
) -> None:
    import pyarrow as pa

    card = _card(spec.model, images)
    log = [json.dumps({name: round(value, 6) for name, value in row.items()}) for row in progress.rows]
    files = {
        checkpoints.MODEL: checkpoints.to_safetensors(progress.best, card),
        "metrics.parquet": parquet_bytes(pa.Table.from_pylist(progress.rows)),
        "log.txt": "\n".join([f"{stage.name}, seed {stage.seed}", *log, ""]).encode(),
    }
    outcome = {"epochs": progress.epoch, "best_epoch": progress.best_epoch, "select": spec.select}
    if "validation" in progress.rows[-1]:
        outcome["validation"] = progress.best_score
    facts = _facts(began, context, device)
    facts["training_seconds"] = sum(row["seconds"] for row in progress.rows)
    store.commit(
        stage, files, {**facts, "card": card, "recipe": recipe.model_dump(mode="json"), "outcome": outcome}, attempt
    )


def _run_fuse(stage: Stage, spec: FuseSpec, context: Context, device: torch.device) -> None:
    store = Store(context.store)
    began = time.time()
    experts = {d: store.weights(stage.inputs[f"expert-{d}"])[0] for d in spec.degradations}
    base, card = store.weights(stage.inputs["base"])
    buffers = "first" if spec.recalibrate == "none" else "average"
    fused = fusion.FUSIONS[spec.method](list(experts.values()), buffers=buffers)
    images, held_out = _splits(spec.data, context.data_root, "validation")
    network = checkpoints.from_card(fused, card).network.to(device)
    mixed = partial(evaluation.mixed_batches, seed=spec.data_seed, device=device, protocol=spec.protocol)
    names = (spec.told,) if spec.told else spec.degradations
    if spec.recalibrate == "mixed":
        sample = images.take(min(spec.images, len(images)))
        fusion.recalibrate_batchnorm(network, (pixels for pixels, _ in mixed(sample, names)))
    judged = held_out if held_out is not None else images.take(min(2000, len(images)))
    losses = {d: _loss(_loaded(card, state, device), mixed(judged, names)) for d, state in experts.items()}
    barrier = _loss(network.eval(), mixed(judged, names)) - sum(losses.values()) / len(losses)
    outcome = {
        "distance": {d: fusion.distance(state, base) for d, state in experts.items()},
        "barrier": barrier,
        "expert_loss": losses,
        "judged_on": "validation" if held_out is not None else "training images",
        "recalibrate": spec.recalibrate,
        "told": spec.told,
    }
    files = {checkpoints.MODEL: checkpoints.to_safetensors(network.state_dict(), card)}
    facts = {**_facts(began, context, device), "card": card, "outcome": outcome}
    store.commit(stage, files, facts, checkpoints.new_attempt())


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
    import pyarrow as pa

    store = Store(context.store)
    began = time.time()
    images = load_data(spec.data, context.data_root, "test")
    models = [_classifier(context.store, needed, device) for needed in stage.inputs.values()]
    model = models[0] if len(models) == 1 else Ensemble(models)
    predictions = evaluation.predict(
        model,
        images,
        spec.degradation,
        spec.levels,
        seed=spec.noise_seed,
        batch_size=context.evaluation_batch,
        protocol=spec.protocol,
    ).cpu()
    right = (predictions == images.labels).sum(1).tolist()
    seen = [len(images)] * len(right)
    counts = pa.table({"level": list(spec.levels), "right": right, "seen": seen})
    said = pa.table({"level": list(spec.levels), "predictions": pa.array(predictions.tolist(), pa.list_(pa.int16()))})
    files = {"counts.parquet": parquet_bytes(counts), "predictions.parquet": parquet_bytes(said)}
    facts = _facts(began, context, device)
    facts["outcome"] = {"accuracy": sum(right) / max(1, sum(seen)), "images": len(images)}
    store.commit(stage, files, facts, checkpoints.new_attempt())


@lru_cache(maxsize=12)
def _cached_classifier(store: str, directory: str, digest: str, device: str) -> nn.Module:
    place = Store(store)
    manifest = place.manifest_of(directory)
    if manifest is None or manifest["digest"] != digest:
        raise checkpoints.CheckpointError(f"{directory} is not stored in {store}")
    data = place.read_from(directory, checkpoints.MODEL)
    state, card = checkpoints.parse_weights(data, f"{directory}/{checkpoints.MODEL}")
    return checkpoints.from_card(state, card, directory).to(device)


def _classifier(store: str, stage: Stage, device: torch.device) -> nn.Module:
    """A stored model ready to judge images; kept by the worker, since its degradations come one after another."""
    return _cached_classifier(store, stage.directory, stage.digest, str(device))


def _run_import(stage: Stage, spec: CheckpointSpec, context: Context) -> None:
    """Check that an existing checkpoint fits the network, and take it into the store."""
    began = time.time()
    state, card = checkpoints.load_checkpoint(spec.path)
    images = load_data(spec.data, context.data_root, "train")
    network = _network(spec.model, images)
    if difference := fusion.state_difference(network.state_dict(), state):
        raise checkpoints.CheckpointError(f"{spec.path} does not fit {spec.model.name}: {difference}")
    if card.get("classes") not in (None, list(images.classes)):
        raise checkpoints.CheckpointError(f"{spec.path} was trained for other classes than {spec.data.name} has")
    card = _card(spec.model, images)
    files = {checkpoints.MODEL: checkpoints.to_safetensors(state, card)}
    facts = {**_facts(began, context, torch.device("cpu")), "card": card, "outcome": {"imported": spec.path}}
    Store(context.store).commit(stage, files, facts, checkpoints.new_attempt())
