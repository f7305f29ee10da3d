"""The share of the told experts' gain over the base that each row recovers, on the same test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fusiondistill.report.methods import base_of, methods_of, yardstick_of
from fusiondistill.statistics import bootstrap_intervals, ratio_half, ratio_intervals
from fusiondistill_runner.views.comparisons import RESAMPLES, SEED
from fusiondistill_runner.views.correctness import Correctness, Evaluated
from fusiondistill_runner.views.data_names import group_names
from fusiondistill_runner.views.keeping import Keeping

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Shares"]

_SCHEMA = {
    **dict.fromkeys(("experiment", "dataset", "model", "protocol", "method", "lower", "upper"), "string"),
    **dict.fromkeys(("images", "seeds"), "int64"),
    **dict.fromkeys(("gain", "gain_low", "gain_high", "share", "low", "high", "seed_half"), "float64"),
}


class Shares:
    """A table with one row per row of an experiment's main table that shares a seed with its base and its oracle.

    lower is the id of the base, upper that of the oracle: the first row that answers with several networks and is told
    the degradation. gain is the oracle's mean accuracy minus the base's, in percentage points, gain_low and gain_high
    the 95 % bootstrap interval over images. share is the row's own gain over the base, a fraction of that: mean over
    seeds over mean over seeds. low and high are the bootstrap interval over images (the same draws above and below),
    seed_half half the 95 % interval over seeds; null where there is one seed, or where the oracle gains nothing. For
    what is weighed how, see :mod:`views.correctness`.

    Args:
        before: an earlier table; the rows of experiments whose stages have not changed are taken from it.
    """

    def __init__(self, before: pa.Table | None = None) -> None:
        self._kept = Keeping(before, [RESAMPLES, SEED, "shares"])

    def add(self, plan: Mapping[str, Any], known: Evaluated, right: Callable[[], Correctness]) -> None:
        """Add the rows of a plan; see :data:`views.comparisons.Beside`."""
        methods = methods_of(plan).known.values()
        base, oracle, own = base_of(methods), yardstick_of(methods), group_names(plan)
        if base is None or oracle is None:
            return
        if not self._kept.unchanged(own, known.digest):
            self._kept.rows += [{**own, **row} for row in _of_experiment(right(), base.id, oracle.id)]

    def table(self) -> pa.Table:
        """All rows that were added."""
        return self._kept.table(_SCHEMA)


def _of_experiment(right: Correctness, base: str, oracle: str) -> Iterator[dict[str, Any]]:
    """A row for each method that has a seed of the base and the oracle."""
    both = right.get(base, {}).keys() & right.get(oracle, {}).keys()
    seeds = {name: sorted(both & of.keys()) for name, of in right.items() if name not in (base, oracle)}
    asked = [name for name, of in seeds.items() if of]
    if not asked:
        return

    def gains(method: str, of: str) -> Any:
        """The gain of a method over the base on each image, float64 [seeds, N]."""
        return np.stack([right[method][seed] - right[base][seed] for seed in seeds[of]])

    own, full = {name: gains(name, name) for name in asked}, {name: gains(oracle, name) for name in asked}
    above, below = (np.stack([of[name].mean(0) for name in asked]) for of in (own, full))
    between = bootstrap_intervals(100 * below, seed=SEED, resamples=RESAMPLES)
    intervals = ratio_intervals(above, below, seed=SEED, resamples=RESAMPLES)
    for i, name in enumerate(asked):
        gain, interval = float(below[i].mean()), intervals[i]
        row = {"method": name, "lower": base, "upper": oracle, "images": above.shape[1], "seeds": len(seeds[name])}
        row |= {"gain": 100 * gain, "gain_low": between[i][0], "gain_high": between[i][1]}
        low, high = interval or (None, None)
        some = gain > 0 and interval is not None
        half = ratio_half(own[name].mean(1), full[name].mean(1)) if some else None
        yield {**row, "share": float(above[i].mean()) / gain if some else None, "low": low if some else None,
               "high": high if some else None, "seed_half": half}  # fmt: skip
