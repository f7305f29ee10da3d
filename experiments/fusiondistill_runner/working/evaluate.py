"""The evaluation stage: what networks say of the test images at every level, as tables."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from fusiondistill import evaluation
from fusiondistill.data import DataError
from fusiondistill.data.corruptions import corruption_digest, load_corruption
from fusiondistill.inference import combined
from fusiondistill.registry import WrongResult
from fusiondistill.samples import mistake_rows, png, sample_rows
from fusiondistill_runner.planning.specs import EvaluateSpec
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.data import load_data
from fusiondistill_runner.working.job import Job, Result

__all__ = ["MISTAKES", "ROUTES", "SAMPLES", "evaluate"]

SAMPLES = "samples.parquet"
MISTAKES = "mistakes.parquet"
ROUTES = "routes.parquet"
"""What a router said of the test images, where the row has one."""

Pixels = Callable[[torch.Tensor, int], torch.Tensor]
"""(rows of the test split, int64 [n]; a level of the stage) -> what the model saw of them, uint8 [n,3,H,W]."""


def evaluate(job: Job) -> Result:
    """Count right answers, and keep predictions and a few images."""
    spec = job.stage.spec
    assert isinstance(spec, EvaluateSpec)
    classifiers = job.inputs.classifiers(job.device, spec.precision)
    if spec.inference is None:
        (model,) = classifiers.values()
    else:
        model = combined(spec.inference, classifiers, spec.parameters)
    judge = _judged if spec.corruption is None else _judged_corruption
    judged, labels, pixels = judge(model, spec, job.context)
    _check_answers(judged)
    right = judged.right(labels)
    files = {**_tables(judged, labels, spec.levels), **(_pictures(judged, labels, spec, pixels) if spec.shown else {})}
    return Result(files, {"outcome": {"accuracy": int(right.sum()) / max(1, right.numel()), "images": len(labels)}})


def _check_answers(judged: evaluation.Judged) -> None:
    """Raise WrongResult where a network answers with NaN, which would count as an answer like any other."""
    if judged.nll is not None and (lost := int(judged.nll.isnan().any(0).sum())):
        raise WrongResult(
            f"the network gives values that are not finite for {lost} of {judged.nll.shape[1]} images: its weights are "
            "finite, but too large, a BatchNorm variance is negative, or its numbers outgrow the precision (fp16)"
        )


def _judged(model: nn.Module, spec: EvaluateSpec, context: Context) -> tuple[evaluation.Judged, torch.Tensor, Pixels]:
    """What a model says of the test images at every level, their labels, and the images."""
    images = load_data(spec.data, context.root(spec.data), "test")
    conditions = evaluation.Conditions(
        spec.degradation, spec.levels, spec.noise_seed, context.evaluation_batch, spec.protocol, spec.settings
    )
    judged = evaluation.judge(model, images, conditions)
    return judged, images.labels, lambda rows, level: conditions.shown(images.gather(rows)[0], rows, level)


def _judged_corruption(
    model: nn.Module, spec: EvaluateSpec, context: Context
) -> tuple[evaluation.Judged, torch.Tensor, Pixels]:
    """The same for a published set, whose images are degraded already; its levels are severities."""
    assert spec.corruption is not None
    images = load_data(spec.data, context.root(spec.data), "test")
    name = spec.degradation.removeprefix("c-")
    folder = context.corruption_folder(spec.corruption)
    if corruption_digest(folder, name) != spec.corruption:
        raise DataError(
            f"the corruption set on {socket.gethostname()} ({folder}) is not the one that this run was "
            f"planned with: copy the same {name}.npy and labels.npy to every node"
        )
    sets = [load_corruption(folder, name, severity, len(images.classes)) for severity in spec.levels]
    labels = sets[0][1]
    pixels = [one for one, _ in sets]
    judged = evaluation.judge_images(model, pixels, labels, batch_size=context.evaluation_batch)
    return judged, labels, lambda rows, level: pixels[spec.levels.index(level)][rows]


def _pictures(judged: evaluation.Judged, labels: torch.Tensor, spec: EvaluateSpec, pixels: Pixels) -> dict[str, bytes]:
    """Test images as the model saw them at the levels to be shown: a few of all, and the most confident mistakes.

    A model that votes has no confidence, and so no file of mistakes.
    """
    import pyarrow as pa

    height, width = pixels(torch.tensor([0]), spec.shown[0]).shape[2:]
    rows = sample_rows(labels, (height, width))
    files = {SAMPLES: _pictured(dict.fromkeys(spec.shown, rows), labels, pixels)}
    if judged.confidence is not None:
        place = {level: spec.levels.index(level) for level in spec.shown}
        right, confidence = judged.right(labels), judged.confidence
        wrong = {level: mistake_rows(~right[i], confidence[i], (height, width)) for level, i in place.items()}
        said = [int(judged.predictions[place[level], row]) for level, rows in wrong.items() for row in rows]
        sure = [float(confidence[place[level], row]) for level, rows in wrong.items() for row in rows]
        more = {"said": pa.array(said, pa.int16()), "confidence": pa.array(sure, pa.float32())}
        files[MISTAKES] = _pictured(wrong, labels, pixels, more)
    return files


def _pictured(
    chosen: dict[int, torch.Tensor], labels: torch.Tensor, pixels: Pixels, more: dict[str, Any] | None = None
) -> bytes:
    """A table with a row for each level and chosen image: level, index, label, ``more`` columns, and the image."""
    import pyarrow as pa

    rows = [(level, int(row)) for level, of_level in chosen.items() for row in of_level]
    images = [png(image) for level, of_level in chosen.items() if len(of_level) for image in pixels(of_level, level)]
    columns = {
        "level": pa.array([level for level, _ in rows], pa.int64()),
        "index": pa.array([row for _, row in rows], pa.int64()),
        "label": pa.array([int(labels[row]) for _, row in rows], pa.int16()),
        **(more or {}),
        "image": pa.array(images, pa.binary()),
    }
    return parquet_bytes(pa.table(columns))


def _routes(routes: evaluation.Routes, levels: Sequence[int]) -> dict[str, Any]:
    """Columns for what a router said at each level, lists with an item for each name: ``named`` and ``chosen`` (images
    each), and ``off`` (the mean distance of the levels that it guessed for images with that name; null without any)."""
    import pyarrow as pa

    kinds, names = range(len(routes.names)), list(routes.names)
    columns: dict[str, list[Any]] = {"names": [names] * len(levels), "named": [], "chosen": [], "off": []}
    for i, level in enumerate(levels):
        named, distance = routes.named[i], (routes.levels[i] - level).abs().double()
        columns["named"].append([int((named == kind).sum()) for kind in kinds])
        columns["chosen"].append([int((routes.chosen[i] == kind).sum()) for kind in kinds])
        means = [float(distance[named == kind].mean()) if bool((named == kind).any()) else None for kind in kinds]
        columns["off"].append(means)
    types = {"names": pa.string(), "named": pa.int64(), "chosen": pa.int64(), "off": pa.float64()}
    return {name: pa.array(values, pa.list_(types[name])) for name, values in columns.items()}


def _tables(judged: evaluation.Judged, labels: torch.Tensor, levels: Sequence[int]) -> dict[str, bytes]:
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
    if judged.routes is not None:
        tables[ROUTES] = {"level": level, **_routes(judged.routes, levels)}
    return {name: parquet_bytes(pa.table(columns)) for name, columns in tables.items()}
