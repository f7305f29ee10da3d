"""Counts in, the table's numbers out: which method reached which accuracy, over which seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fusiondistill.report.published import AVERAGE, MODEL, published
from fusiondistill.report.words import EXPERT, in_order, method_title, printable
from fusiondistill.statistics import Interval, accuracy, average, mean_interval

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Cell", "Group", "Row", "headline", "summarise"]

_KEYS = ("experiment", "dataset", "model", "protocol", "method", "seed", "degradation", "level")


class _Count(NamedTuple):
    right: int
    seen: int


# method -> degradation -> seed -> level -> count
_Counts = dict[str, dict[str, dict[int, dict[int, _Count]]]]


@dataclass(frozen=True)
class Cell:
    """A method's accuracies in percent, by seed; empty where nothing is evaluated completely."""

    by_seed: Mapping[int, float]

    @property
    def interval(self) -> Interval | None:
        """Mean over seeds with its 95 % interval, in percent; None for a missing cell."""
        return mean_interval(list(self.by_seed.values())) if self.by_seed else None


@dataclass(frozen=True)
class Row:
    """One method: a cell for each degradation, and the average over all of them.

    ``average`` has the seeds for which no degradation is missing. ``curves[degradation][seed]`` holds the accuracy in
    percent at each of the group's levels.
    """

    method: str
    cells: Mapping[str, Cell]
    average: Cell
    curves: Mapping[str, Mapping[int, Sequence[float]]]

    def cell(self, column: str) -> Cell:
        """The cell of a degradation, or of the column of averages (``published.AVERAGE``)."""
        return self.average if column == AVERAGE else self.cells[column]

    @property
    def is_expert(self) -> bool:
        """Whether this is a single expert rather than a row of the published table."""
        return self.method.startswith(EXPERT)


@dataclass(frozen=True)
class Group:
    """One table: what shares an experiment, a data set, a network and a protocol.

    ``levels`` and ``images`` say for each degradation which levels were evaluated and on how many test images each.
    """

    experiment: str
    dataset: str
    model: str
    protocol: str
    degradations: tuple[str, ...]
    levels: Mapping[str, tuple[int, ...]]
    images: Mapping[str, int]
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns: the degradations, then the average."""
        return (*self.degradations, AVERAGE)

    @property
    def comparable(self) -> bool:
        """Whether a difference from the published figures means something: their network, their protocol."""
        return self.model == MODEL and self.protocol == "paper"

    def row(self, method: str) -> Row | None:
        """The row of a method, or None."""
        return next((row for row in self.rows if row.method == method), None)

    def published(self, method: str, column: str) -> float | None:
        """The published figure in percent for a cell of this table, or None."""
        return published(self.dataset, method, column)


def summarise(results: pa.Table, *, methods: Sequence[str] = (), degradations: Sequence[str] = ()) -> list[Group]:
    """The numbers of the report from the counts: one group per (experiment, dataset, model, protocol), as they come.

    A degradation's accuracy is the mean over its levels of right / seen; a row's average is the mean over the group's
    degradations; both per seed, then the mean over seeds with a Student-t interval. Rows of one (method, seed,
    degradation, level) are shards: their counts are added. A cell counts as missing for a seed until it has every
    level that any row of the group has for that degradation, on as many images.

    Args:
        results: a row per (experiment, method, model, seed, dataset, protocol, degradation, level) with the counts
            ``right`` and ``seen``; further columns are ignored. ``seen`` null or 0 means not evaluated.
        methods: methods that get a row even where nothing of them is evaluated yet.
        degradations: degradations that belong to the average even where nothing of them is evaluated yet.

    Raises:
        ValueError: a column is missing.
    """
    missing = [name for name in (*_KEYS, "right", "seen") if name not in results.column_names]
    if missing:
        present = ", ".join(results.column_names)
        raise ValueError(f"the results have no column {', '.join(missing)}; they have {present}")
    groups: dict[tuple[str, ...], _Counts] = {}
    columns = [results[name].to_pylist() for name in (*_KEYS, "right", "seen")]
    for *group, method, seed, degradation, level, right, seen in zip(*columns, strict=True):
        if right is None or not seen:
            continue
        cell = groups.setdefault(tuple(group), {}).setdefault(method, {}).setdefault(degradation, {})
        before = cell.setdefault(seed, {}).get(level, _Count(0, 0))
        cell[seed][level] = _Count(before.right + right, before.seen + seen)
    return [_group(key, counts, methods, degradations) for key, counts in groups.items()]


def _group(key: tuple[str, ...], counts: _Counts, methods: Iterable[str], degradations: Iterable[str]) -> Group:
    columns = in_order([*degradations, *(name for by_degradation in counts.values() for name in by_degradation)])
    levels: dict[str, tuple[int, ...]] = {}
    images: dict[str, int] = {}
    for name in columns:
        by_level = [
            item
            for by_degradation in counts.values()
            for seed_counts in by_degradation.get(name, {}).values()
            for item in seed_counts.items()
        ]
        levels[name] = tuple(sorted({level for level, _ in by_level}))
        images[name] = max((count.seen for _, count in by_level), default=0)
    experiment, dataset, model, protocol = key
    return Group(
        experiment=experiment,
        dataset=dataset,
        model=model,
        protocol=protocol,
        degradations=tuple(columns),
        levels=levels,
        images=images,
        seeds=tuple(sorted({s for d in counts.values() for by_seed in d.values() for s in by_seed})),
        rows=tuple(_row(m, counts.get(m, {}), columns, levels, images) for m in in_order([*methods, *counts])),
    )


def _row(
    method: str,
    counts: Mapping[str, Mapping[int, Mapping[int, _Count]]],
    columns: Sequence[str],
    levels: Mapping[str, Sequence[int]],
    images: Mapping[str, int],
) -> Row:
    cells: dict[str, Cell] = {}
    curves: dict[str, dict[int, list[float]]] = {}
    for name in columns:
        complete = {
            seed: [by_level[level] for level in levels[name]]
            for seed, by_level in sorted(counts.get(name, {}).items())
            if len(by_level) == len(levels[name]) and all(c.seen == images[name] for c in by_level.values())
        }
        cells[name] = Cell(
            {s: 100 * accuracy([c.right for c in by], [c.seen for c in by]) for s, by in complete.items()}
        )
        curves[name] = {s: [100 * c.right / c.seen for c in by] for s, by in complete.items()}
    averages = {
        seed: average([cells[name].by_seed.get(seed) for name in columns])
        for seed in sorted({seed for cell in cells.values() for seed in cell.by_seed})
    }
    return Row(method, cells, Cell({s: value for s, value in averages.items() if value is not None}), curves)


def headline(group: Group) -> str | None:
    """The answer in one sentence, or None as long as the method itself is not evaluated."""
    found = {
        method: f"{method_title(method)} {row.average.interval.mean:.1f} %"
        for method in ("fusiondistill", "fusiondistill-searched", "fusing", "vanilla", "base", "oracle")
        if (row := group.row(method)) and row.average.interval
    }
    if not any(method.startswith("fusiondistill") for method in found):
        return None
    if "oracle" in found:
        found["oracle"] += " (told the degradation)"
    where = f"On {printable(group.dataset)}, averaged over {len(group.degradations)} degradations"
    return f"{where}: {', '.join(found.values())}."
