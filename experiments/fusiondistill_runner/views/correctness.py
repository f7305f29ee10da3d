"""The correctness of each method of an experiment on each test image, with the levels weighed as in the table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiondistill.checkpoints import CheckpointError
from fusiondistill.locations import side_by_side
from fusiondistill.report.methods import methods_of
from fusiondistill.statistics import level_weights
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store

__all__ = [
    "IMAGES", "PREDICTIONS", "Correctness", "Evaluated", "Pieces", "correctness", "evaluated", "labels_and_answers",
    "wanted_levels",
]  # fmt: skip

IMAGES = "images.parquet"
PREDICTIONS = "predictions.parquet"
_VERSION = 3  # of this computation and of the tests on it; a new one makes all views compute them again

Correctness = dict[str, dict[int, NDArray[np.float64]]]
"""method -> seed -> float64 [N]: each image's mean correctness over levels, then over degradations, 0..1."""

Pieces = Mapping[int, Mapping[str, list[str]]]
"""seed -> degradation -> the directories of the evaluate stages that counted a row."""


@dataclass(frozen=True)
class Evaluated:
    """The rows of a plan's main table that are stored in full, without networks for one degradation.

    Attributes:
        pieces: (method, seed) -> degradation -> the directories of its pieces.
        spans: degradation -> all levels that its mean is over, where the plan says so.
        digest: of everything that the correctness is computed from.
    """

    pieces: Mapping[tuple[str, int], Mapping[str, list[str]]]
    spans: Mapping[str, list[int]]
    digest: str

    def of_method(self, method: str) -> Pieces:
        """The pieces of a method."""
        return {seed: of for (name, seed), of in self.pieces.items() if name == method}


def evaluated(store: Store, plan: Mapping[str, Any]) -> Evaluated:
    """The methods and seeds of which every piece is stored with its answers for each image."""
    found: dict[tuple[str, int], dict[str, list[str]]] = {}
    unusable: set[tuple[str, int]] = set()
    attempts: dict[str, str | None] = {}
    methods = methods_of(plan)
    for row in plan["rows"]:
        if (row.get("kind") or "trained") != "trained" or methods[row["method"]].own:
            continue
        directory, key = row["directory"], (row["method"], row["seed"])
        if directory not in attempts:
            manifest = store.manifest_of(directory)
            usable = manifest and {IMAGES, PREDICTIONS} <= manifest["files"].keys()
            attempts[directory] = manifest["attempt"] if manifest and usable else None
        if attempts[directory] is None:
            unusable.add(key)
        found.setdefault(key, {}).setdefault(row["degradation"], []).append(directory)
    degradations = {name for by_degradation in found.values() for name in by_degradation}
    pieces = {key: of for key, of in found.items() if key not in unusable and of.keys() == degradations}
    spans = wanted_levels(plan)
    used = [[*key, of, [attempts[d] for ds in of.values() for d in ds]] for key, of in pieces.items()]
    content = json.dumps([_VERSION, spans, used], sort_keys=True)
    return Evaluated(pieces, spans, hashlib.sha256(content.encode()).hexdigest())


def correctness(store: Store, of: Evaluated) -> Correctness:
    """Each image's correctness. Its mean over images is the table's average.

    Where levels were not measured, each measured one has its weight in the interpolated mean. A method and seed that
    lacks levels that others have is left out.

    Raises:
        CheckpointError: a file is damaged, or methods saw different test images.
    """
    levels = {
        (*key, name): sorted(level for directory in directories for level in _levels(store, directory))
        for key, by_degradation in of.pieces.items()
        for name, directories in by_degradation.items()
    }
    weights: dict[str, dict[int, float]] = {}
    for *_, name in levels:
        wanted = sorted({level for (*_, other), some in levels.items() if other == name for level in some})
        weights[name] = _weights(wanted, of.spans.get(name))
    labels: NDArray[np.int64] | None = None
    found: Correctness = {}
    for (method, seed), by_degradation in of.pieces.items():
        if any(levels[method, seed, name] != list(weights[name]) for name in by_degradation):
            continue
        directories = [(name, directory) for name, of_name in by_degradation.items() for directory in of_name]
        read = side_by_side(lambda one: _weighed(store, one[1], weights[one[0]]), directories)
        for (_, directory), (own_labels, _) in zip(directories, read, strict=True):
            labels = own_labels if labels is None else labels
            if not np.array_equal(labels, own_labels):
                raise CheckpointError(f"{directory} was evaluated on other test images than the rows beside it")
        # The mean over degradations of the weighed sums over their levels.
        found.setdefault(method, {})[seed] = np.sum([part for _, part in read], axis=0) / len(by_degradation)
    return found


def wanted_levels(plan: Mapping[str, Any]) -> dict[str, list[int]]:
    """Degradation -> all levels that its mean is over, where a plan says so."""
    about = plan.get("degradations") or {}
    ends = plan.get("levels") or {}
    return {d: about.get(d, {}).get("listed") or [*range(first, last + 1)] for d, (first, last) in ends.items()}


def _weights(levels: list[int], wanted: list[int] | None) -> dict[int, float]:
    """Level -> its share in the table's mean over levels."""
    if wanted is None:
        return dict.fromkeys(levels, 1 / len(levels))
    shares = level_weights(levels, sorted({*wanted, *levels}) if not set(levels) <= set(wanted) else wanted)
    return dict(zip(levels, shares.tolist(), strict=True))


def _weighed(
    store: Store, directory: str, weights: Mapping[int, float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each test image its label, and the weighed number of levels at which the answer was right."""
    if _alike(weights.values()):
        table = read_parquet(store.read_from(directory, IMAGES))
        return table["label"].to_numpy().astype(np.int64), table["right"].to_numpy() * next(iter(weights.values()))
    labels, levels, said = labels_and_answers(store, directory)
    return labels, np.array([weights[level] for level in levels.tolist()]) @ (said == labels)


def labels_and_answers(store: Store, directory: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(classes of the test images [N], levels [L], the class that the stage named at each level [L,N]), int64.

    Raises:
        CheckpointError: a file is damaged.
    """
    labels = read_parquet(store.read_from(directory, IMAGES))["label"].to_numpy().astype(np.int64)
    table = read_parquet(store.read_from(directory, PREDICTIONS))
    said = table["predictions"].combine_chunks().flatten().to_numpy().astype(np.int64).reshape(table.num_rows, -1)
    if said.shape[1] != len(labels):
        raise CheckpointError(f"{directory} is damaged: {said.shape[1]} predictions a level of {len(labels)} images")
    return labels, table["level"].to_numpy(), said


def _alike(values: Iterable[float]) -> bool:
    weights = list(values)
    return bool(np.allclose(weights, weights[0], rtol=1e-9, atol=0))


def _levels(store: Store, directory: str) -> tuple[int, ...]:
    manifest = store.manifest_of(directory)
    assert manifest is not None
    return tuple(manifest["spec"]["levels"])
