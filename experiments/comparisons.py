"""Paired tests between the methods of an experiment, from what their evaluate stages say about each test image."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.correctness import correctness, evaluated
from experiments.store import Store
from fusiondistill.statistics import bootstrap_intervals, holm, mean_interval, sign_flip_tests

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RESAMPLES", "SEED", "comparisons_table"]

RESAMPLES = 10_000
SEED = 0

_SCHEMA = {
    **dict.fromkeys(("experiment", "dataset", "model", "protocol", "a", "b"), "string"),
    **dict.fromkeys(("images", "seeds"), "int64"),
    **dict.fromkeys(("difference", "low", "high", "p", "p_holm", "seed_half"), "float64"),
}


def comparisons_table(store: Store, plans: Sequence[Mapping[str, Any]], before: pa.Table | None = None) -> pa.Table:
    """A row per pair of methods (a, b) of an experiment that share a seed: how they differ on the same test images.

    The unit is the test image: whether it was classified right, averaged over a degradation's levels (as the table
    does it: see :func:`~experiments.correctness.correctness`), over the seeds that both methods have in full and over
    the degradations that experts were trained for. Columns: experiment,
    dataset, model, protocol, a, b, images and seeds (how many), difference (mean accuracy of a minus that of b, in
    percentage points), low and high (percentile bootstrap over images, 95 %), p (sign flips), p_holm (corrected for all
    pairs of the experiment), seed_half (half the 95 % interval of the difference over seeds; null for one seed).

    Single experts are left out. So is a method and seed as long as one of its pieces is missing, or was stored by a
    version that kept no ``images.parquet``, or lacks levels that others have.

    Args:
        before: an earlier table; experiments whose stages are still those of then are taken from it.

    Raises:
        CheckpointError: a file is damaged, or methods of one experiment saw different test images.
    """
    import pyarrow as pa

    made_from = _made_from(before)
    rows: list[dict[str, Any]] = []
    digests: dict[str, str] = {}
    for plan in plans:
        known = evaluated(store, plan)
        digest = f"{known.digest} {RESAMPLES} {SEED}"
        digests[plan["experiment"]] = digest
        if before is not None and made_from.get(plan["experiment"]) == digest:
            rows += [row for row in before.to_pylist() if row["experiment"] == plan["experiment"]]
            continue
        config = plan["config"]
        names = {
            "experiment": plan["experiment"],
            "dataset": config["data"]["name"],
            "model": config["model"]["name"],
            "protocol": config["protocol"],
        }
        rows += [{**names, **pair} for pair in _pairs(correctness(store, known))]
    types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
    columns = {name: pa.array([row[name] for row in rows], types[kind]) for name, kind in _SCHEMA.items()}
    return pa.table(columns).replace_schema_metadata({"made_from": json.dumps(digests)})


def _made_from(before: pa.Table | None) -> dict[str, str]:
    metadata = (before.schema.metadata or {}) if before is not None else {}
    digests: dict[str, str] = json.loads(metadata.get(b"made_from", b"{}"))
    return digests


def _pairs(correctness: Mapping[str, Mapping[int, NDArray[np.float64]]]) -> Iterator[dict[str, Any]]:
    """The tests of all pairs of methods that share a seed."""
    pairs = [
        (a, b, sorted(correctness[a].keys() & correctness[b].keys())) for a, b in itertools.combinations(correctness, 2)
    ]
    pairs = [pair for pair in pairs if pair[2]]
    if not pairs:
        return
    by_seed = [np.stack([correctness[a][s] - correctness[b][s] for s in seeds]) for a, b, seeds in pairs]
    differences = np.stack([100 * of_seeds.mean(axis=0) for of_seeds in by_seed])
    p_values = sign_flip_tests(differences, seed=SEED, resamples=RESAMPLES)
    intervals = bootstrap_intervals(differences, seed=SEED, resamples=RESAMPLES)
    corrected = holm(p_values)
    for i, (a, b, seeds) in enumerate(pairs):
        yield {
            "a": a,
            "b": b,
            "images": differences.shape[1],
            "seeds": len(seeds),
            "difference": float(differences[i].mean()),
            "low": intervals[i][0],
            "high": intervals[i][1],
            "p": p_values[i],
            "p_holm": corrected[i],
            "seed_half": mean_interval(100 * by_seed[i].mean(axis=1)).half,
        }
