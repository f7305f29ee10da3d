"""What the report shows class by class: counts, confusions and the most confident mistakes of a few rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fusiondistill.checkpoints import CheckpointError
from fusiondistill.locations import side_by_side
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.answers import class_names
from fusiondistill_runner.views.correctness import IMAGES, PREDICTIONS, labels_and_answers
from fusiondistill_runner.views.sample_tables import shown_plans

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["class_tables"]

MISTAKES = "mistakes.parquet"
_EACH = 3
"""Mistakes that are shown at one level."""


@dataclass(frozen=True)
class _Piece:
    """A stored evaluation of a shown row, and those of its levels that are shown."""

    names: Mapping[str, Any]
    directory: str
    manifest: Mapping[str, Any]
    levels: Sequence[int]


def class_tables(
    store: Store,
    plans: Sequence[Mapping[str, Any]],
    results: pa.Table,
    planned: pa.Table,
    judged: pa.Table | None,
    classes: pa.Table | None,
) -> dict[str, pa.Table | None]:
    """``classes``, ``confusions`` and ``mistakes`` of the rows that the report shows class by class, None for nothing.

    These are each experiment's best single network and its base, of at most four experiments
    (:func:`views.sample_tables.shown_plans`). ``confusions`` has a row for each (experiment, method, seed, degradation,
    level, label, said) that occurred, with its ``count``, at three levels of each degradation. ``mistakes`` has at most
    three images at each of them, of the first seed.

    Args:
        judged: by which the best networks are chosen: see :func:`fusiondistill.report.classes.shown_rows`.
        classes: see :func:`views.answers.classes_table`.
    """
    shown = {plan["experiment"]: plan for plan in shown_plans(plans)}
    results, planned = (_of(table, experiment=[*shown]) for table in (results, planned))
    pieces = list(_pieces(store, shown, results, planned, judged))
    methods = dict.fromkeys(piece.names["method"] for piece in pieces)
    part = None if classes is None else _of(classes, experiment=[*shown], method=[*methods])
    return {
        "classes": _plain(part) if part is not None and part.num_rows else None,
        "confusions": _confusions(store, pieces),
        "mistakes": _mistakes(store, pieces, shown),
    }


def _pieces(
    store: Store,
    plans: Mapping[str, Mapping[str, Any]],
    results: pa.Table,
    planned: pa.Table,
    judged: pa.Table | None,
) -> Iterator[_Piece]:
    """The stored evaluations of the shown rows at levels that are shown."""
    from fusiondistill.report import summarise
    from fusiondistill.report.classes import conditions, shown_rows

    manifests = cache(store.manifest_of)
    for group in summarise(results, planned=planned):
        methods = [row.method for row in shown_rows(group, judged)]
        wanted = {(one.degradation, one.level) for one in conditions(group)}
        for row in plans[group.experiment]["rows"]:
            manifest = manifests(row["directory"]) if row["method"] in methods else None
            if manifest is None or not {IMAGES, PREDICTIONS} <= manifest["files"].keys():
                continue
            levels = [level for level in manifest["spec"]["levels"] if (row["degradation"], level) in wanted]
            if levels:
                names = {key: row[key] for key in ("method", "seed", "degradation")}
                yield _Piece({"experiment": group.experiment, **names}, row["directory"], manifest, levels)


def _confusions(store: Store, pieces: Sequence[_Piece]) -> pa.Table | None:
    """How often images of a class were given a class, for each that occurred."""
    import pyarrow as pa

    manifests = cache(store.manifest_of)

    def of(piece: _Piece) -> list[pa.Table]:
        try:
            labels, levels, said = labels_and_answers(store, piece.directory)
        except CheckpointError:
            return []  # damaged: the next run makes it again
        classes = pa.array(class_names(piece.manifest, manifests, labels, said), pa.string())
        found = []
        for i, level in enumerate(levels.tolist()):
            if level in piece.levels:
                counts = np.bincount(labels * len(classes) + said[i])
                pairs = counts.nonzero()[0]
                names = {key: pa.repeat(pa.scalar(value), len(pairs)) for key, value in piece.names.items()}
                label, named = (classes.take(pa.array(one)) for one in np.divmod(pairs, len(classes)))
                own = {"level": pa.repeat(level, len(pairs)), "label": label, "said": named}
                found.append(pa.table({**names, **own, "count": counts[pairs]}))
        return found

    tables = [table for found in side_by_side(of, pieces) for table in found]
    return pa.concat_tables(tables) if tables else None


def _mistakes(store: Store, pieces: Sequence[_Piece], plans: Mapping[str, Mapping[str, Any]]) -> pa.Table | None:
    """The most confident mistakes of the first seed, the surest first; None where no evaluation kept any."""
    import pyarrow as pa

    manifests = cache(store.manifest_of)
    rows: list[dict[str, Any]] = []
    for piece in pieces:
        first = plans[piece.names["experiment"]]["config"]["seeds"][0]
        if piece.names["seed"] != first or MISTAKES not in piece.manifest["files"]:
            continue
        try:
            found = read_parquet(store.read_from(piece.directory, MISTAKES)).to_pylist()
        except CheckpointError:
            continue
        named = (np.array([row[key] for row in found], np.int64) for key in ("label", "said"))
        classes = class_names(piece.manifest, manifests, *named)
        for level in piece.levels:
            for row in [row for row in found if row["level"] == level][:_EACH]:
                rows.append({**piece.names, **row, "label": classes[row["label"]], "said": classes[row["said"]]})
    return pa.Table.from_pylist(rows) if rows else None


def _of(table: pa.Table, **wanted: Sequence[str]) -> pa.Table:
    """The rows whose columns have one of these values."""
    import pyarrow as pa
    import pyarrow.compute as compute

    for name, values in wanted.items():
        table = table.filter(compute.is_in(table[name], pa.array(values, pa.string())))
    return table


def _plain(table: pa.Table) -> pa.Table:
    """A table whose text columns are text, so that tables of several stores can be joined."""
    import pyarrow as pa

    kinds = [field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in table.schema]
    return table.cast(pa.schema(kinds))
