"""The table of what each row costs at run time and in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusiondistill.report.grid import Entry, Grid
from fusiondistill.report.groups import Group
from fusiondistill.report.words import MISSING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["cost_grid"]

_COLUMNS = {
    "parameters": "parameters",
    "passes an image": "passes",
    "images of its own training": "own_images",
    "with all that it needs": "all_images",
}
_NOTE = (
    "Parameters of all networks of a row, and their forward passes for one image. Images are training images: one "
    "counts each time that a network is trained on it, so once an epoch under each degradation. The row's own training "
    "is one column; the last adds the trainings that it needs: its starts, merged networks, teachers and searches, "
    "each once. Not counted: images for validation, for the test and for BatchNorm's statistics, and the training "
    "images of a checkpoint from elsewhere."
)


def cost_grid(group: Group, costs: pa.Table | None) -> Grid | None:
    """A row for each method with its costs, means over seeds; None where nothing is known.

    Args:
        costs: rows (experiment: str, method: str, seed: int64, parameters: int64, passes: int64, own_images: int64,
            all_images: int64); null where unknown.
    """
    known: dict[str, list[Mapping[str, Any]]] = {}
    for row in costs.to_pylist() if costs is not None else ():
        if row["experiment"] == group.experiment:
            known.setdefault(row["method"], []).append(row)
    rows = [row.about for row in group.rows if row.method in known]
    if not any(of[column] is not None for about in rows for of in known[about.id] for column in _COLUMNS.values()):
        return None
    body = tuple(
        ((about.name, ""), *(_mean([of[column] for of in known[about.id]]) for column in _COLUMNS.values()))
        for about in rows
    )
    seeds = " Means over seeds; a range where seeds differ." if len(group.seeds) > 1 else ""
    return Grid("What each row costs", ("", *_COLUMNS), body, _NOTE + seeds)


def _mean(values: Sequence[int | None]) -> Entry:
    """The mean of those that are known, and their range where they differ."""
    found = [value for value in values if value is not None]
    if not found:
        return MISSING, ""
    between = f"{min(found):,} to {max(found):,}" if min(found) < max(found) else ""
    return f"{sum(found) / len(found):,.0f}", between
