"""Computes the table's numbers from the counts: each method's accuracies by seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from fusiondistill.report.groups import TRAINED, Cell, Column, Comparison, Group, Routing, Row, Share
from fusiondistill.report.level_counts import Count, always_named, majority_share
from fusiondistill.report.methods import Method, Methods, described
from fusiondistill.report.words import CLEAN, in_order
from fusiondistill.statistics import accuracy, average, interpolated_mean

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["summarise"]

_GROUP = ("experiment", "dataset", "model", "protocol")
_CELL = ("method", "seed", "degradation")
_SAID = ("precision", "select", "training", "deviations", "size")
_ABOUT = ("entry", "means", "said")  # the fields of a Column
_Key = tuple[str, ...]
_Said = TypeVar("_Said", bound=Comparison | Share)
_Asked = tuple[str, int, str]  # method, seed, degradation


# method -> degradation -> seed -> level -> count
_Counts = dict[str, dict[str, dict[int, dict[int, Count]]]]


@dataclass
class _Known:
    """The counts of a group, and the planned figures of its table."""

    counts: _Counts = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    spans: dict[str, Sequence[int]] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)
    asked: set[_Asked] = field(default_factory=set)
    unfinished: set[_Asked] = field(default_factory=set)
    said: dict[str, Any] = field(default_factory=dict)
    about: Methods = field(default_factory=Methods)


def summarise(
    results: pa.Table,
    *,
    planned: pa.Table | None = None,
    comparisons: pa.Table | None = None,
    shares: pa.Table | None = None,
    routing: pa.Table | None = None,
) -> list[Group]:
    """The numbers of the report from the counts: one group per (experiment, dataset, model, protocol), as they come.

    A degradation's accuracy is the mean over its levels of right / seen; a row's average is the mean over the group's
    degradations of one kind; both per seed, then the mean over seeds with a Student-t interval. Rows of one (method,
    seed, degradation, level) are shards: their counts are added. A cell counts as missing for a seed until it has every
    level that any row of the group has for that degradation, on as many images, and nothing planned is unfinished.
    Where ``planned`` says that a degradation has more integer levels than were measured, the others are interpolated
    linearly between their measured neighbours (beyond the measured ones: the nearest).

    Args:
        results: a row per (experiment, method, model, seed, dataset, protocol, degradation, level) with the counts
            ``right`` and ``seen``; ``seen`` null or 0 means not evaluated. These columns may be absent or null, others
            are ignored:

            - ``kind``: "trained"; others, such as "unseen", get their own table;
            - ``nll`` (float64, nats), ``ece`` and ``balanced`` (float64, fractions);
            - ``majority`` (int64): images of the largest class;
            - ``said`` (str) and ``said_times`` (int64): the class that was named most often, and how often.

        planned: a row per planned (experiment, method, model, seed, dataset, protocol, degradation):

            - ``kind``, as above;
            - ``first`` and ``last`` (int64 or null): the degradation's integer levels; where some between them are
              none, ``listed`` has all;
            - ``complete`` (bool): whether ``results`` has all of it;
            - perhaps ``precision`` (of the evaluation, such as "fp32"), ``select``, ``training`` and ``deviations``
              (see :class:`Group`), and the columns of :data:`~fusiondistill.report.methods.COLUMNS`.

        comparisons: paired tests: experiment, dataset, model, protocol and the fields of :class:`Comparison`.
            Rows whose ``points`` (bool, may be absent) is true are between points of a sweep and left out here.
        shares: experiment, dataset, model, protocol and the fields of :class:`Share`.
        routing: rows (experiment: str, method: str, seed: int64, degradation: str, level: int64, name: str (what the
            router knows), named: int64, chosen: int64, off: float64).

    Raises:
        ValueError: a column is missing, or counts that cannot be.
    """
    groups: dict[_Key, _Known] = {}
    if planned is not None:
        _read_planned(planned, groups)
    _read_results(results, groups)
    tested = None if comparisons is None else _by_group(comparisons, Comparison)
    said = described(planned)
    for key, known in groups.items():
        known.about = said.get(key[0], said[""])
    found = [_group(key, known, None if tested is None else tested.get(key, ())) for key, known in groups.items()]
    recovered, routes = {} if shares is None else _by_group(shares, Share), _routes(routing)
    return [
        replace(group, shares=recovered.get(key, ()), routing=routes.get(key[0], {}))
        for key, group in zip(groups, found, strict=True)
    ]


def _read_planned(planned: pa.Table, groups: dict[_Key, _Known]) -> None:
    columns = [planned[name].to_pylist() for name in (*_GROUP, *_CELL, "kind", "first", "last", "complete")]
    columns.append([*zip(*(_optional(planned, name) for name in _SAID), strict=True)])
    columns += [_optional(planned, "listed"), [*zip(*(_optional(planned, name) for name in _ABOUT), strict=True)]]
    for *group, method, seed, degradation, kind, first, last, complete, said, listed, about in zip(
        *columns, strict=True
    ):
        known = groups.setdefault(tuple(group), _Known())
        known.said = {name: text for name, text in zip(_SAID, said, strict=True) if text}
        known.methods.append(method)
        known.kinds.setdefault(degradation, kind or TRAINED)
        if first is not None and last is not None:
            known.spans[degradation] = listed or range(first, last + 1)
        known.columns[degradation] = Column(*(text or "" for text in about))
        known.asked.add((method, seed, degradation))
        if not complete:
            known.unfinished.add((method, seed, degradation))


def _read_results(results: pa.Table, groups: dict[_Key, _Known]) -> None:
    needed = (*_GROUP, *_CELL, "level", "right", "seen")
    missing = [name for name in needed if name not in results.column_names]
    if missing:
        present = ", ".join(results.column_names)
        raise ValueError(f"the results have no column {', '.join(missing)}; they have {present}")
    optional = [_optional(results, name) for name in ("kind", *Count._fields[2:])]
    columns = [results[name].to_pylist() for name in needed]
    for row in zip(*columns, *optional, strict=True):
        *group, method, seed, degradation, level, right, seen, kind = row[: len(needed) + 1]
        if right is None or not seen:
            continue
        known = groups.setdefault(tuple(group), _Known())
        known.kinds.setdefault(degradation, kind or TRAINED)
        by_level = known.counts.setdefault(method, {}).setdefault(degradation, {}).setdefault(seed, {})
        before = by_level.get(level)
        by_level[level] = before.with_shard(right, seen) if before else Count(right, seen, *row[len(needed) + 1 :])


def _optional(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * table.num_rows


def _by_group(table: pa.Table, kind: type[_Said]) -> dict[_Key, tuple[_Said, ...]]:
    """The rows of a table as values of a class with their columns; those between points of a sweep are left out."""
    names = [item.name for item in fields(kind)]
    found: dict[_Key, tuple[_Said, ...]] = {}
    for row in table.to_pylist():
        if row.get("points"):
            continue
        key = tuple(row[name] for name in _GROUP)
        found[key] = (*found.get(key, ()), kind(**{name: row[name] for name in names}))
    return found


def _routes(table: pa.Table | None) -> dict[str, dict[str, tuple[Routing, ...]]]:
    """Experiment -> method -> what its router said."""
    cells: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in table.to_pylist() if table is not None else ():
        key = tuple(row[name] for name in ("experiment", "method", "degradation", "seed", "level"))
        cells.setdefault(key, []).append(row)
    found: dict[str, dict[str, tuple[Routing, ...]]] = {}
    for (experiment, method, *at), rows in cells.items():
        named, chosen, off = ({row["name"]: row[column] for row in rows} for column in ("named", "chosen", "off"))
        of = found.setdefault(experiment, {})
        degradation, seed, level = at
        of[method] = (*of.get(method, ()), Routing(degradation, seed, level, named, chosen, off))
    return found


def _group(key: _Key, known: _Known, comparisons: tuple[Comparison, ...] | None) -> Group:
    main, *others = [
        _one_kind(key, known, kind) for kind in dict.fromkeys((TRAINED, *sorted(set(known.kinds.values()))))
    ]
    return replace(main, others=tuple(others), comparisons=comparisons)


def _one_kind(key: _Key, known: _Known, kind: str) -> Group:
    columns = in_order(name for name, its_kind in known.kinds.items() if its_kind == kind)
    levels: dict[str, tuple[int, ...]] = {}
    images: dict[str, int] = {}
    for name in columns:
        by_level = [
            item
            for by_degradation in known.counts.values()
            for seed_counts in by_degradation.get(name, {}).values()
            for item in seed_counts.items()
        ]
        levels[name] = tuple(sorted({level for level, _ in by_level}))
        images[name] = max((count.seen for _, count in by_level), default=0)
    spans = {}
    for name in columns:
        if name in known.spans and levels[name]:
            wanted = known.spans[name]
            more = [level for level in (levels[name][0], levels[name][-1]) if not wanted[0] <= level <= wanted[-1]]
            spans[name] = sorted({*wanted, *more}) if more else wanted
    seeds = {s for of in known.counts.values() for d in columns for s in of.get(d, {})}
    seeds |= {seed for _, seed, name in known.asked if name in columns}
    experiment, dataset, model, protocol = key
    methods = known.about.sorted([*known.methods, *known.counts])
    group = Group(
        experiment=experiment,
        dataset=dataset,
        model=model,
        protocol=protocol,
        kind=kind,
        degradations=tuple(columns),
        levels=levels,
        spans=spans,
        images=images,
        seeds=tuple(sorted(seeds)),
        rows=(),
        asked=frozenset(known.asked) if known.asked else None,
        methods=tuple(methods),
        about={name: known.columns.get(name, Column()) for name in columns},
        majority=majority_share(_in_columns(known.counts, columns)),
        **known.said,
    )
    shown = [method for method in methods if kind == TRAINED or _has(known, method.id, columns)]
    return replace(group, rows=tuple(_row(group, m, known.counts.get(m.id, {}), known.unfinished) for m in shown))


def _in_columns(counts: _Counts, columns: Iterable[str]) -> Iterator[Count]:
    """The counts of all rows at every level of these columns."""
    for by_degradation in counts.values():
        for name in columns:
            for by_level in by_degradation.get(name, {}).values():
                yield from by_level.values()


def _has(known: _Known, method: str, columns: Iterable[str]) -> bool:
    """Whether a method has a measured or planned figure in these columns."""
    planned = any(m == method and d in columns for m, _, d in known.unfinished)
    return planned or any(name in known.counts.get(method, {}) for name in columns)


def _row(
    group: Group,
    method: Method,
    counts: Mapping[str, Mapping[int, Mapping[int, Count]]],
    unfinished: set[_Asked],
) -> Row:
    complete: dict[str, dict[int, list[Count]]] = {}
    for name in group.degradations:
        complete[name] = {
            seed: [by_level[level] for level in group.levels[name]]
            for seed, by_level in sorted(counts.get(name, {}).items())
            if len(by_level) == len(group.levels[name])
            and all(c.seen == group.images[name] for c in by_level.values())
            and (method.id, seed, name) not in unfinished
        }
    curves = {name: {s: _percents(c) for s, c in by_seed.items()} for name, by_seed in complete.items()}
    cells = {
        name: Cell({s: _over_levels(group, name, values) for s, values in by_seed.items()})
        for name, by_seed in curves.items()
    }
    return Row(
        about=method,
        cells=cells,
        average=_averaged(cells.values()),
        curves=curves,
        nll=_averaged(_known_cells(group, complete, "nll", 1.0)),
        ece=_averaged(_known_cells(group, complete, "ece", 100.0)),
        clean=_averaged(
            Cell({s: values[group.levels[name].index(CLEAN[group.entry(name)])] for s, values in curves[name].items()})
            for name in group.degradations
            if CLEAN.get(group.entry(name)) in group.levels[name]
        ),
        balanced=_averaged(_known_cells(group, complete, "balanced", 100.0)),
        always=always_named(complete.values()),
    )


def _percents(counts: Sequence[Count]) -> list[float]:
    accuracy([c.right for c in counts], [c.seen for c in counts])  # refuses counts that cannot be
    return [100 * (c.right / c.seen) for c in counts]


def _over_levels(group: Group, name: str, values: Sequence[float]) -> float:
    """The (interpolated) mean over all levels of a degradation, from the values at the measured levels."""
    levels = group.levels[name]
    if not group.interpolated(name):
        return sum(values) / len(values)
    return interpolated_mean(levels, values, group.spans[name])


def _known_cells(
    group: Group, complete: Mapping[str, Mapping[int, Sequence[Count]]], figure: str, unit: float
) -> list[Cell]:
    """A cell per degradation of a figure; missing if one level lacks the figure."""
    cells = []
    for name, by_seed in complete.items():
        found: dict[int, float] = {}
        for seed, counts in by_seed.items():
            values = [value for c in counts if (value := getattr(c, figure)) is not None]
            if len(values) == len(counts):
                found[seed] = unit * _over_levels(group, name, values)
        cells.append(Cell(found))
    return cells


def _averaged(cells: Iterable[Cell]) -> Cell:
    """The mean over cells, for the seeds that all of them have."""
    columns = list(cells)
    seeds = sorted({seed for cell in columns for seed in cell.by_seed})
    means = {seed: average([cell.by_seed.get(seed) for cell in columns]) for seed in seeds}
    return Cell({seed: mean for seed, mean in means.items() if mean is not None})
