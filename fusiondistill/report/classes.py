"""Chooses the rows and levels that are shown class by class, and computes their numbers from the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusiondistill.report.choice import choices
from fusiondistill.report.groups import Group, Row
from fusiondistill.report.methods import Methods
from fusiondistill.report.words import CLEAN, FALLING, degradation_title
from fusiondistill.statistics import level_weights

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ByClass", "Condition", "by_class", "chosen_row", "conditions", "confusion", "shown_rows"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Condition:
    """One degradation at one level, and what to call it."""

    title: str
    degradation: str
    level: int


@dataclass(frozen=True)
class ByClass:
    """A row's figures by class, means over seeds.

    Attributes:
        classes: the names, C of them.
        seen: test images of each class, int64 [C].
        right: degradation -> accuracy in percent, the mean over its levels, [C]; NaN for a class without images.
        average: the mean over degradations, [C].
        named: how many of all images were given the class, in percent, the mean over levels and degradations, [C].
    """

    classes: tuple[str, ...]
    seen: NDArray[np.int64]
    right: Mapping[str, Floats]
    average: Floats
    named: Floats


def chosen_row(group: Group, judged: pa.Table | None) -> Row | None:
    """The single network that validation chose among those of the table's experiment; None where none is chosen.

    Args:
        judged: rows of :data:`fusiondistill.report.choice.SCHEMA`.
    """
    own = None if judged is None else _part(judged, experiment=group.experiment, model=group.model)
    found = choices(own, [group], {"": Methods()})
    return next((choice.best.row for choice in found if choice.best), None)


def shown_rows(group: Group, judged: pa.Table | None) -> list[Row]:
    """The single network that validation chose (else that with the best average), and the base.

    Where that is the base, the single network with the next best average stands in the base's place. A row that is told
    the degradation, or whose networks answer together, is no single network.
    """
    single = [row for row in group.rows if row.competes and row.about.passes in (None, 1) and row.average.interval]
    single = [row for row in single if row.about.form != "combined"]
    single.sort(key=lambda row: row.average.interval.mean if row.average.interval else 0.0, reverse=True)
    chosen = chosen_row(group, judged)
    first = chosen if chosen in single else single[0] if single else None
    return sorted(single, key=lambda row: (row is not first, row is not group.base))[:2]


def conditions(group: Group) -> list[Condition]:
    """The mildest, the middle and the hardest measured level of each degradation; undegraded images once, on top."""
    clean: list[Condition] = []
    found: list[Condition] = []
    for name in group.degradations:
        levels = group.levels[name]
        places = (0, round((len(levels) - 1) / 2), len(levels) - 1) if levels else ()
        three = list(dict.fromkeys(levels[place] for place in places))
        for level in three[:: -1 if group.entry(name) in FALLING else 1]:
            if level == CLEAN.get(group.entry(name)):
                clean.append(Condition("Not degraded", name, level))
            else:
                found.append(Condition(f"{degradation_title(name)}, level {level}", name, level))
    return [*clean[:1], *found]


def by_class(group: Group, row: Row, counts: pa.Table) -> ByClass | None:
    """A row's figures from its counts, over the seeds that have all degradations; None where one is missing.

    Args:
        counts: rows (method: str, seed: int64, degradation: str, level: int32, class: str, right: int32, seen: int32,
            said: int32), with the classes of a level in one order.
    """
    right: dict[str, Floats] = {}
    named: list[Floats] = []
    classes: tuple[str, ...] = ()
    seen = np.zeros(0, np.int64)
    for name in group.degradations:
        of_seeds = []
        for seed in row.average.by_seed:
            part = _part(counts, method=row.method, seed=seed, degradation=name)
            levels = np.unique(part["level"].to_numpy())
            if tuple(levels) != group.levels[name] or part.num_rows % len(levels):
                return None
            order = np.argsort(part["level"].to_numpy(), kind="stable").reshape(len(levels), -1)
            classes = tuple(part["class"].take(order[0]).to_pylist())
            seen = part["seen"].to_numpy()[order[0]].astype(np.int64)
            weights = _weights(group, name)
            of_seeds.append([weights @ part[key].to_numpy()[order] for key in ("right", "said")])
        hits, said = np.mean(of_seeds, axis=0)
        right[name] = np.where(seen > 0, 100 * hits / np.maximum(seen, 1), np.nan)
        named.append(100 * said / max(1, seen.sum()))
    if not right:
        return None
    return ByClass(classes, seen, right, np.mean([*right.values()], axis=0), np.mean(named, axis=0))


def confusion(classes: Sequence[str], row: Row, condition: Condition, confusions: pa.Table) -> Floats | None:
    """How the images of each class (first axis) were named (second axis), summed over seeds, [C,C]; None: unknown.

    Args:
        confusions: rows (method: str, degradation: str, level: int64, label: str, said: str, count: int64).
    """
    part = _part(confusions, method=row.method, degradation=condition.degradation, level=condition.level)
    if not part.num_rows:
        return None
    place = {name: i for i, name in enumerate(classes)}
    found = np.zeros((len(classes), len(classes)))
    pairs = [[place[name] for name in part[key].to_pylist()] for key in ("label", "said")]
    np.add.at(found, tuple(pairs), part["count"].to_numpy())
    return found


def _weights(group: Group, name: str) -> Floats:
    """The share of each measured level in the table's mean over levels."""
    levels = group.levels[name]
    if group.interpolated(name):
        return level_weights(levels, group.spans[name])
    return np.full(len(levels), 1 / len(levels))


def _part(table: pa.Table, **wanted: str | int) -> pa.Table:
    """The rows with these values."""
    import pyarrow.compute as compute

    for name, value in wanted.items():
        table = table.filter(compute.equal(table[name], value))
    return table
