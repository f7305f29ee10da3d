"""The same method at two points of a sweep, on the same test images: which differences are established."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple

from fusiondistill.report.comparing import HEADING, established_first, pair_line, sentence
from fusiondistill.report.grid import Grid
from fusiondistill.report.groups import LEVEL, Comparison
from fusiondistill.report.methods import Methods
from fusiondistill.report.words import printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["sweep_grids", "sweep_lines"]


class _Family(NamedTuple):
    """Points that may be compared; ``model`` is empty where they differ in it."""

    experiment: str
    dataset: str
    model: str
    protocol: str
    images: int


_LINES = 12  # of a terminal, for all sweeps together


def sweep_grids(comparisons: pa.Table | None, methods: Methods) -> list[Grid]:
    """A table for each set of points that were tested against each other: a sweep's, on the same test images."""
    grids = []
    for family, pairs in _families(comparisons).items():
        rows = tuple(pair_line(pair, _side(pair.a, methods), _side(pair.b, methods)) for pair in pairs)
        grids.append(Grid(_title(family), HEADING, rows, _note(pairs), texts=2))
    return grids


def sweep_lines(comparisons: pa.Table | None, methods: Methods) -> list[str]:
    """The first of these pairs for a terminal, the established ones before the others; twelve lines at most."""
    lines: list[str] = []
    families = _families(comparisons)
    for family, pairs in list(families.items())[: _LINES // 3]:
        room = _LINES // min(len(families), _LINES // 3) - 2
        known = sum(pair.established for pair in pairs)
        lines.append(f"{_title(family)}: {known} of {len(pairs)} differences established (p corrected for these pairs)")
        shown = pairs[:room]
        lines += [f"  {sentence(pair, _side(pair.a, methods), _side(pair.b, methods))}" for pair in shown]
        lines += [f"  and {len(pairs) - len(shown)} more in table.md"] if len(pairs) > len(shown) else []
    return lines


def _families(comparisons: pa.Table | None) -> dict[_Family, list[Comparison]]:
    """The pairs by what p (Holm) is corrected for: those of a sweep on the same images by the same protocol."""
    if comparisons is None or "points" not in comparisons.column_names:
        return {}
    names = [item.name for item in fields(Comparison)]
    found: dict[_Family, list[Comparison]] = {}
    for row in comparisons.to_pylist():
        if row["points"]:
            family = _Family(*(row[name] for name in _Family._fields))
            found.setdefault(family, []).append(Comparison(**{name: row[name] for name in names}))
    return {family: established_first(pairs) for family, pairs in found.items()}


def _title(family: _Family) -> str:
    model = f", {family.model}" if family.model else ""
    where = f"{family.dataset}{model}, protocol {family.protocol}"
    return f"Between the points of {printable(family.experiment)} ({printable(where)})"


def _side(name: str, methods: Methods) -> str:
    """ "<point> <method>" in the report's words."""
    point, _, method = name.rpartition(" ")
    return f"{methods.name(method)} at {printable(point)}"


def _note(pairs: list[Comparison]) -> str:
    images = f"{pairs[0].images:,}"
    these = "this pair" if len(pairs) == 1 else f"these {len(pairs)} pairs"
    return (
        f"The same row at two points, on the same {images} test images under the same degradations and levels; points "
        "that differ in these are not compared. Tests and intervals as for the rows of a table; p (Holm) is corrected "
        f"for {these}, established means p (Holm) < {LEVEL}. Tested are the rows that are trained on all "
        "degradations or merged, those with teachers first; with many points only the first of these rows: over too "
        "many pairs nothing could be established."
    )
