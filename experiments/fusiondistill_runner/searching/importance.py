"""How much each dimension of a search mattered: a random forest's permutation importance, and the forest's fit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["FEWEST", "importance"]

FEWEST = 8
"""Judged trials that an importance needs at least."""


def importance(
    values: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> tuple[dict[str, float] | None, float | None]:
    """Each dimension's share in predicting the trials' accuracy.

    The forest (300 trees, seed 0) predicts the accuracy from the values; a dimension's importance is what its R² loses
    when the dimension's values are shuffled among the trials (mean of 10), negatives set to 0, normalised to sum 1.
    Text, lists and truth values count as numbers in their order.

    Args:
        values: of each judged trial.
        scores: their accuracies, fractions, at equal numbers of epochs.

    Returns:
        (dimension -> fraction, the forest's out-of-bag R²). At an R² near or below 0 the forest knows nothing, and the
        fractions mean nothing. (None, None) with fewer than 8 trials, equal accuracies, or a single dimension.
    """
    names = list(values[0]) if values else []
    if len(scores) < FEWEST or len(names) < 2 or max(scores) == min(scores):
        return None, None
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    columns = np.array([_numbers([one[name] for one in values]) for name in names]).T
    forest = RandomForestRegressor(n_estimators=300, oob_score=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # trials that no tree left out
        forest.fit(columns, np.array(scores))
        lost = permutation_importance(forest, columns, np.array(scores), n_repeats=10, random_state=0)
    shares = np.clip(lost.importances_mean, 0, None)
    if not shares.sum() > 0:
        return None, float(forest.oob_score_)
    found = dict(zip(names, (shares / shares.sum()).tolist(), strict=True))
    return found, float(forest.oob_score_)


def _numbers(column: Sequence[Any]) -> list[float]:
    """Numbers as they are; other values become their rank in the order of their texts."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        return [float(value) for value in column]
    texts = [json.dumps(value) for value in column]
    order = sorted(set(texts))
    return [float(order.index(text)) for text in texts]
