"""The counts behind each number of the tables: which stage counted how many right, at which level, of which seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusiondistill.report.blocks import Block, Folded, Table, Text
from fusiondistill.report.groups import Group
from fusiondistill.report.words import MISSING, degradation_title, printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Counted", "Counts", "anchor", "counts_block", "counts_of", "embedded"]

_BUDGET = 1_500_000  # characters of counts in a page


@dataclass
class Counted:
    """The stored counts of one (method, degradation, seed): by level the images right and seen, and the stages."""

    levels: dict[int, tuple[int, int]] = field(default_factory=dict)
    stages: list[str] = field(default_factory=list)


# (method, degradation) -> seed -> counts
Counts = Mapping[tuple[str, str], Mapping[int, Counted]]
_GROUP = ("experiment", "dataset", "model", "protocol")


def counts_of(results: pa.Table) -> Mapping[tuple[str, ...], Counts]:
    """The counts of each group (experiment, dataset, model, protocol); shards of a level are added."""
    found: dict[tuple[str, ...], dict[tuple[str, str], dict[int, Counted]]] = {}
    names = (*_GROUP, "method", "degradation", "seed", "level", "right", "seen")
    columns = [results[name].to_pylist() for name in names]
    has_stage = "stage" in results.column_names
    columns.append(results["stage"].to_pylist() if has_stage else [None] * results.num_rows)
    for *key, method, degradation, seed, level, right, seen, stage in zip(*columns, strict=True):
        if right is None or not seen:
            continue
        cells = found.setdefault(tuple(key), {}).setdefault((method, degradation), {})
        counted = cells.setdefault(seed, Counted())
        before = counted.levels.get(level, (0, 0))
        counted.levels[level] = before[0] + right, before[1] + seen
        if stage and stage not in counted.stages:
            counted.stages.append(stage)
    return found


def anchor(table: str, row: int = 0, column: int | None = None) -> str:
    """The id of the counts behind a cell; ``column`` None: the average."""
    return f"counts-{table}" if column is None else f"counts-{table}-{row}-{column}"


def embedded(tables: Sequence[tuple[str, Group, Counts]]) -> tuple[str, int]:
    """(JSON for a script element, with the counts of as many tables as a page has room for; how many these are)."""
    whole: dict[str, Any] = {}
    room = _BUDGET
    for table, group, counts in tables:
        part = _described(group, counts)
        room -= len(json.dumps(part, separators=(",", ":")))
        if room < 0:
            break
        whole[table] = part
    text = json.dumps(whole, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
    return text, len(whole)


def _described(group: Group, counts: Counts) -> dict[str, Any]:
    """A table for the page's script: levels and images once, the right ones by row, column and seed."""
    rows = []
    for row in group.rows:
        cells = []
        for name in group.degradations:
            means = row.cells[name].by_seed
            cells.append(
                [
                    [seed, _mean(means.get(seed)), *_counted(group, name, counted)]
                    for seed, counted in sorted(counts.get((row.method, name), {}).items())
                ]
            )
        average = [[seed, _mean(value)] for seed, value in row.average.by_seed.items()]
        rows.append([row.about.name, cells, average])
    columns = [
        [printable(degradation_title(name)), list(group.levels[name]), group.images[name]]
        for name in group.degradations
    ]
    return {"columns": columns, "rows": rows}


def _counted(group: Group, name: str, counted: Counted) -> list[Any]:
    """Stages, images right at each level (null where missing), and the images seen where these are not all."""
    levels = group.levels[name]
    rights = [counted.levels[level][0] if level in counted.levels else None for level in levels]
    seen = [counted.levels[level][1] if level in counted.levels else None for level in levels]
    usual = all(n in (None, group.images[name]) for n in seen)
    return [[printable(stage) for stage in counted.stages], rights, *([] if usual else [seen])]


def _mean(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def counts_block(table: str, group: Group, counts: Counts) -> Block | None:
    """A row for every method, degradation and seed, which links lead to where no script runs; None without counts."""
    body: list[Sequence[object]] = []
    ids: dict[int, str] = {}
    for i, row in enumerate(group.rows):
        for j, name in enumerate(group.degradations):
            for k, (seed, counted) in enumerate(sorted(counts.get((row.method, name), {}).items())):
                right, seen = (sum(part) for part in zip(*counted.levels.values(), strict=True))
                mean = row.cells[name].by_seed.get(seed)
                if not k:
                    ids[len(body)] = anchor(table, i, j)
                known = (degradation_title(name), seed, len(counted.levels), f"{right:,}", f"{seen:,}")
                shown = MISSING if mean is None else f"{mean:.2f}"
                body.append((row.about.name, *known, shown, ", ".join(counted.stages)))
    if not body:
        return None
    titles = ("row", "degradation", "seed", "levels", "right", "seen", "mean over levels, %", "stage")
    note = (
        "Right and seen images, summed over the levels that are stored. Level by level: click on a number of the table "
        "above, or see the store's results.parquet."
    )
    shown_table = Table("Counts", titles, body, "text-2 sortable stages", ids=ids)
    return Folded("The counts behind these numbers", [shown_table, Text(note)], anchor(table), "lookup")
