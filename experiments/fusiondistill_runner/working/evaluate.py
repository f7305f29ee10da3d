"""The evaluation stage: what networks say of the test images at every level, as tables."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import torch
from torch import nn

from fusiondistill import evaluation
from fusiondistill.data import DataError
from fusiondistill.data.corruptions import corruption_digest, load_corruption
from fusiondistill.inference import combined
from fusiondistill.registry import WrongResult
from fusiondistill.samples import png, sample_rows
from fusiondistill_runner.planning.specs import EvaluateSpec
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.data import image_size, load_data
from fusiondistill_runner.working.job import Job, Result

__all__ = ["SAMPLES", "evaluate"]

SAMPLES = "samples.parquet"

Samples = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Level -> (rows of the test split, int64 [n]; their pixels as the model saw them, uint8 [n,3,H,W])."""


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
    judged, labels, samples = judge(model, spec, job.context)
    _check_answers(judged)
    right = judged.right(labels)
    files = {**_tables(judged, labels, spec.levels), **_sample_files(samples, labels)}
    return Result(files, {"outcome": {"accuracy": int(right.sum()) / max(1, right.numel()), "images": len(labels)}})


def _check_answers(judged: evaluation.Judged) -> None:
    """Raise WrongResult where a network answers with NaN, which would count as an answer like any other."""
    if judged.nll is not None and (lost := int(judged.nll.isnan().any(0).sum())):
        raise WrongResult(
            f"the network gives values that are not finite for {lost} of {judged.nll.shape[1]} images: its weights are "
            "finite, but too large, a BatchNorm variance is negative, or its numbers outgrow the precision (fp16)"
        )


def _judged(model: nn.Module, spec: EvaluateSpec, context: Context) -> tuple[evaluation.Judged, torch.Tensor, Samples]:
    """What a model says of the test images at every level, their labels, and a few of the images."""
    images = load_data(spec.data, context.root(spec.data), "test")
    conditions = evaluation.Conditions(
        spec.degradation, spec.levels, spec.noise_seed, context.evaluation_batch, spec.protocol, spec.settings
    )
    judged = evaluation.judge(model, images, conditions)
    rows = sample_rows(images.labels, image_size(images))
    clean, _ = images.gather(rows)
    shown = {level: (rows, conditions.shown(clean, rows, level)) for level in spec.shown}
    return judged, images.labels, shown


def _judged_corruption(
    model: nn.Module, spec: EvaluateSpec, context: Context
) -> tuple[evaluation.Judged, torch.Tensor, Samples]:
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
    return {name: parquet_bytes(pa.table(columns)) for name, columns in tables.items()}
