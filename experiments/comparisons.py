"""Paired tests between the methods of an experiment, from what their evaluate stages say about each test image."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.stage_tables import read_parquet
from experiments.store import Store
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.statistics import bootstrap_intervals, holm, mean_interval, sign_flip_tests

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RESAMPLES", "SEED", "comparisons_table"]

RESAMPLES = 10_000
SEED = 0
IMAGES = "images.parquet"
_VERSION = 1  # of how it is computed: another one computes everything again

_SCHEMA = {
    **dict.fromkeys(("experiment", "dataset", "model", "protocol", "a", "b"), "string"),
    **dict.fromkeys(("images", "seeds"), "int64"),
    **dict.fromkeys(("difference", "low", "high", "p", "p_holm", "seed_half"), "float64"),
}

Pieces = dict[tuple[str, int], dict[str, list[str]]]
"""(method, seed) -> degradation -> the directories of its pieces."""


def comparisons_table(store: Store, plans: Sequence[Mapping[str, Any]], before: pa.Table | None = None) -> pa.Table:
    """A row per pair of methods (a, b) of an experiment that share a seed: how they differ on the same test images.

    The unit is the test image: whether it was classified right, averaged over a degradation's measured levels, over the
    seeds that both methods have in full and over the degradations that experts were trained for. Columns: experiment,
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
        pieces, digest = _pieces(store, plan)
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
        rows += [{**names, **pair} for pair in _pairs(_correctness(store, pieces))]
    types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
    columns = {name: pa.array([row[name] for row in rows], types[kind]) for name, kind in _SCHEMA.items()}
    return pa.table(columns).replace_schema_metadata({"made_from": json.dumps(digests)})


def _made_from(before: pa.Table | None) -> dict[str, str]:
    metadata = (before.schema.metadata or {}) if before is not None else {}
    digests: dict[str, str] = json.loads(metadata.get(b"made_from", b"{}"))
    return digests


def _pieces(store: Store, plan: Mapping[str, Any]) -> tuple[Pieces, str]:
    """The pieces of every method and seed that is stored in full with its images, and a digest of all that."""
    found: Pieces = {}
    unusable: set[tuple[str, int]] = set()
    attempts: dict[str, str | None] = {}
    for row in plan["rows"]:
        if (row.get("kind") or "trained") != "trained" or row["method"].startswith("expert-"):
            continue
        directory, key = row["directory"], (row["method"], row["seed"])
        if directory not in attempts:
            manifest = store.manifest_of(directory)
            attempts[directory] = manifest["attempt"] if manifest and IMAGES in manifest["files"] else None
        if attempts[directory] is None:
            unusable.add(key)
        found.setdefault(key, {}).setdefault(row["degradation"], []).append(directory)
    degradations = {name for by_degradation in found.values() for name in by_degradation}
    usable = {key: of for key, of in found.items() if key not in unusable and of.keys() == degradations}
    used = [
        (method, seed, of, [attempts[d] for ds in of.values() for d in ds]) for (method, seed), of in usable.items()
    ]
    content = json.dumps([_VERSION, RESAMPLES, SEED, used], sort_keys=True)
    return usable, hashlib.sha256(content.encode()).hexdigest()


def _correctness(store: Store, pieces: Pieces) -> dict[str, dict[int, NDArray[np.float64]]]:
    """method -> seed -> float64 [N]: each image's mean correctness over levels, then over degradations, 0..1."""
    levels: dict[tuple[str, int, str], tuple[int, ...]] = {}
    means: dict[tuple[str, int, str], NDArray[np.float64]] = {}
    labels: NDArray[np.int64] | None = None
    for (method, seed), by_degradation in pieces.items():
        for degradation, directories in by_degradation.items():
            cell = method, seed, degradation
            right: NDArray[np.int64] | None = None
            for directory in directories:
                own_labels, own_right = _images(store, directory)
                if labels is None:
                    labels = own_labels
                if not np.array_equal(labels, own_labels):
                    raise CheckpointError(f"{directory} was evaluated on other test images than the rows beside it")
                right = own_right if right is None else right + own_right
                levels[cell] = (*levels.get(cell, ()), *_levels(store, directory))
            assert right is not None
            means[cell] = right / len(levels[cell])
    wanted = {d: {level for (_, _, e), of in levels.items() if e == d for level in of} for _, _, d in levels}
    found: dict[str, dict[int, NDArray[np.float64]]] = {}
    for (method, seed), by_degradation in pieces.items():
        if all(sorted(levels[method, seed, d]) == sorted(wanted[d]) for d in by_degradation):
            of_degradations = [means[method, seed, d] for d in by_degradation]
            found.setdefault(method, {})[seed] = np.mean(of_degradations, axis=0)
    return found


def _images(store: Store, directory: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label and number of levels at which it was right, for each test image."""
    table = read_parquet(store.read_from(directory, IMAGES))
    return table["label"].to_numpy().astype(np.int64), table["right"].to_numpy().astype(np.int64)


def _levels(store: Store, directory: str) -> tuple[int, ...]:
    manifest = store.manifest_of(directory)
    assert manifest is not None
    return tuple(manifest["spec"]["levels"])


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
