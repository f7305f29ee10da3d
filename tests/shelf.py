"""A store that a test fills with evaluate stages, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusiondistill.checkpoints import new_attempt, sealed
from fusiondistill.config_file import parse
from fusiondistill.degradations import DEGRADATIONS
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.specs import EvaluateSpec
from fusiondistill_runner.planning.stage import FORMAT, Stage
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views import results
from planned_report import ABOUT

FOUR = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}
PLAN = build(
    parse("experiment: x\nevaluation: {every: 50}\nsearch: {trials: 2, space: {loss.ce: {uniform: [0.1, 1.0]}}}\n"),
    "f",
    FOUR.__getitem__,
)
TEMPLATE = next(stage.spec for stage in PLAN.stages if isinstance(stage.spec, EvaluateSpec))
LABELS = np.arange(60) % 10


class Shelf:
    """A store that a test fills piece by piece, and the plan that goes with it."""

    def __init__(self, path: Path, experiment: str = "x", levels: Mapping[str, Sequence[int]] | None = None) -> None:
        self.store = Store(path)
        config = json.loads(json.dumps(PLAN.describe()["config"]))
        self.plan: dict[str, Any] = {
            "format": FORMAT,
            "experiment": experiment,
            "config": config,
            "stages": [],
            "rows": [],
            "methods": ABOUT,
        }
        if levels:
            self.plan["levels"] = levels
        self.experiment = experiment

    def piece(
        self, method: str, seed: int, degradation: str, right: Any, levels: Sequence[int], *, kind: str | None = None,
        store: bool = True, images: bool = True, labels: Any = LABELS,
        data: Mapping[str, Any] | None = None, protocol: str = "standard", said: Any = None,
        **more: Sequence[float | None],
    ) -> str:  # fmt: skip
        """One evaluate stage; right: bool [levels, images]; said: int [levels, images], where it matters."""
        own = {"degradation": degradation, "levels": tuple(levels), "protocol": protocol}
        others = {"corruption": None if degradation in DEGRADATIONS else "0"}  # a name that no entry has needs no code
        spec = TEMPLATE.model_copy(update={**own, **others, "parameters": {"row": method}})
        spec = spec.model_copy(update={"data": spec.data.model_copy(update=data or {})})
        stage = Stage(f"evaluate-{method}-{degradation}", seed, spec)
        row = {"method": method, "seed": seed, "degradation": degradation, "directory": stage.directory}
        self.plan["rows"].append({**row, "kind": kind} if kind else row)
        if store:
            right = np.asarray(right)
            counts = {"level": list(levels), "right": right.sum(1), "seen": [right.shape[1]] * len(levels), **more}
            files = {"counts.parquet": parquet_bytes(pa.table(counts))}
            if images:
                columns = {"label": labels.astype(np.int16), "right": right.sum(0).astype(np.int16)}
                files["images.parquet"] = parquet_bytes(pa.table(columns))
                named = np.where(right, labels, labels + 1) if said is None else said
                lists = pa.array(list(named.astype(np.int16)), pa.list_(pa.int16()))
                answers = pa.table({"level": pa.array(levels, pa.int64()), "predictions": lists})
                files["predictions.parquet"] = parquet_bytes(answers)
            self.store.commit(stage, files, {}, new_attempt())
        return stage.directory

    def write(self) -> pa.Table:
        self.store.write(sealed(self.plan), "plans", f"{self.experiment}.json")
        return results.write_results(self.store)

    def pairs(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The paired tests of the store by (a, b)."""
        rows = pq.read_table(self.store.path("comparisons.parquet")).to_pylist()
        return {(row["a"], row["b"]): row for row in rows}


def drawn(levels: int, rate: float, seed: int) -> Any:
    return np.random.default_rng(seed).random((levels, len(LABELS))) < rate
