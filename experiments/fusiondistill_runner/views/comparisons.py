"""Paired tests between methods and between points of a sweep, from the evaluate stages' answers for each test image."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fusiondistill.statistics import bootstrap_intervals, holm, mean_interval, sign_flip_tests
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.correctness import Correctness, Evaluated, correctness, evaluated
from fusiondistill_runner.views.data_names import group_names
from fusiondistill_runner.views.keeping import Keeping
from fusiondistill_runner.views.sweep_comparisons import rests_on, sweeps

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RESAMPLES", "SEED", "comparisons_table"]

Beside = Callable[[Mapping[str, Any], Evaluated, Callable[[], Correctness]], object]
"""(plan, what is evaluated of it, reads its correctness)."""
RESAMPLES = 10_000
SEED = 0

_SCHEMA = {
    **dict.fromkeys(("experiment", "dataset", "model", "protocol", "a", "b"), "string"),
    **dict.fromkeys(("images", "seeds"), "int64"),
    **dict.fromkeys(("difference", "low", "high", "p", "p_holm", "seed_half"), "float64"),
    "points": "bool",
}


def comparisons_table(
    store: Store, plans: Sequence[Mapping[str, Any]], before: pa.Table | None = None, beside: Beside | None = None
) -> pa.Table:
    """A row per pair of methods (a, b) of an experiment that share a seed: how they differ on the same test images.

    The unit is the test image: whether it was classified right, averaged over a degradation's levels (with the table's
    weights, see :mod:`views.correctness`), over the seeds that both methods have in full and over the degradations that
    experts were trained for. Columns:

    - experiment, dataset, model, protocol, a, b;
    - images and seeds: how many;
    - difference: mean accuracy of a minus that of b, in percentage points;
    - low and high: its 95 % interval over images, by a percentile bootstrap;
    - p: of a sign-flip test over images; p_holm: corrected for all pairs of the experiment;
    - seed_half: half the 95 % interval of the difference over seeds; null for one seed;
    - points: false.

    Below them the same method at two points of a sweep: points is true, experiment the sweep's name, a and b
    "<point> <method>", p_holm corrected for all such pairs of a sweep on the same images (see
    :mod:`views.sweep_comparisons`).

    Networks for one degradation are left out, and so are pairs of rows that are the same stages. Pairs that rest on the
    same stages have a row each, but p_holm counts them as one test. A method and seed is left out while one of its
    pieces is missing, was stored without ``images.parquet``, or lacks levels that other methods have.

    Args:
        before: an earlier table; the rows of experiments whose stages have not changed are taken from it.
        beside: called with each plan, what is evaluated of it, and a function that reads its correctness once.

    Raises:
        CheckpointError: a file is damaged, or methods of one experiment saw different test images.
    """
    kept = Keeping(before, [RESAMPLES, SEED])
    for plan in plans:
        known, own = evaluated(store, plan), {**group_names(plan), "points": False}
        right = cache(lambda known=known: correctness(store, known))
        if not kept.unchanged(own, known.digest):
            kept.rows += [{**own, **pair} for pair in _of_experiment(right(), known)]
        if beside is not None:
            beside(plan, known, right)
    for sweep in sweeps(store, plans):
        own = {"experiment": sweep.name, **sweep.names, "points": True}
        if sweep.pairs and not kept.unchanged(own, sweep.digest, set(sweep.pairs)):
            kept.rows += [{**own, **pair} for pair in _tested(sweep.correctness(store), sweep.pairs)]
    return kept.table(_SCHEMA)


def _of_experiment(right: Correctness, known: Evaluated) -> Iterator[dict[str, Any]]:
    """The tests of all pairs of an experiment's rows. A test that several pairs share is made once."""
    sharing: dict[frozenset[str], list[tuple[str, str, str]]] = {}
    for a, b in itertools.combinations(right, 2):
        if stages := rests_on(known.of_method(a), known.of_method(b)):
            sharing.setdefault(frozenset(stages), []).append((a, b, stages[0]))
    tested = {(row["a"], row["b"]): row for row in _tested(right, [of[0][:2] for of in sharing.values()])}
    for (x, y, side), *others in sharing.values():
        if first := tested.get((x, y)):
            turned = {**first, "difference": -first["difference"], "low": -first["high"], "high": -first["low"]}
            yield first
            yield from ({**(first if own == side else turned), "a": a, "b": b} for a, b, own in others)


def _tested(right: Correctness, asked: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The tests of those pairs that share a seed."""
    known = [(a, b) for a, b in asked if a in right and b in right]
    pairs = [(a, b, sorted(right[a].keys() & right[b].keys())) for a, b in known]
    pairs = [pair for pair in pairs if pair[2]]
    if not pairs:
        return
    by_seed = [np.stack([right[a][s] - right[b][s] for s in seeds]) for a, b, seeds in pairs]
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
