"""The paired tests in words and tables: between the rows of a table, and of one row between points of a sweep.

The words keep two questions apart: other test images, and other training seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, NamedTuple

from fusiondistill.report.grid import Entry, Grid
from fusiondistill.report.groups import LEVEL, Comparison, Group
from fusiondistill.report.methods import Methods
from fusiondistill.report.words import MISSING, printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BEST", "best_note", "comparison_grid", "listed", "short_lines", "sweep_grids", "sweep_lines"]

_LINES = 12  # of a terminal, for all sweeps together
BEST = "\N{BLACK STAR}"

UNTESTED = (
    "Not tested in pairs: no two rows have stored which images they got right, for a common seed and all degradations "
    "(an unfinished run, or a store of an older version)."
)

_EXPLAINED = (
    "Differences that are established for other test images, in points (95 % interval over images; p is corrected for "
    'all pairs of this table). For other training seeds see "seeds ±", half the 95 % interval over seeds; "open": it '
    "holds 0."
)

_RULE = f"every other row that is not told the degradation (paired tests over test images, corrected p < {LEVEL})"

_HEADING = (
    "better in the mean", "than", "points", "95 % over images", "p", "p (Holm)", "established", "over seeds", "n",
)  # fmt: skip


def comparison_grid(group: Group) -> Grid | None:
    """All pairs, established differences first, the largest on top; None where no tests were asked for, or possible."""
    if not _testable(group):
        return None
    assert group.comparisons is not None
    pairs = _established_first(group.comparisons)
    rows = tuple(_pair_line(pair, group.name(pair.a), group.name(pair.b)) for pair in pairs)
    return Grid("Which differences are established", _HEADING, rows, _note(pairs), texts=2)


def _established_first(pairs: Iterable[Comparison]) -> list[Comparison]:
    """Each pair seen from the better one, the established ones first, the largest difference on top."""
    turned = [c if c.difference >= 0 else c.seen_from(c.b) for c in pairs]
    return sorted(turned, key=lambda c: (not c.established, -c.difference, c.a, c.b))


def _testable(group: Group) -> bool:
    """Whether tests were asked for and there are two rows for them."""
    rows = [row for row in group.rows if not row.is_expert]
    return group.comparisons is not None and len(rows) > 1


def _pair_line(pair: Comparison, a: str, b: str) -> tuple[Entry, ...]:
    """A row of a table under :data:`_HEADING`, its two sides called a and b."""
    seeds = MISSING if pair.seed_half is None else f"{pair.difference:+z.2f} ±{pair.seed_half:.2f}"
    images = f"{pair.low:+z.2f} to {pair.high:+z.2f}"
    cells = (
        a, b, f"{pair.difference:+z.2f}", images,
        _p(pair.p), _p(pair.p_holm), "yes" if pair.established else "", seeds, str(pair.seeds),
    )  # fmt: skip
    return tuple((cell, "") for cell in cells)


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def _note(pairs: Sequence[Comparison]) -> str:
    if not pairs:
        return UNTESTED
    images = sorted({pair.images for pair in pairs})
    return (
        f"Each pair on the same {' or '.join(f'{n:,}' for n in images)} test images. The unit is the image: its "
        "correctness averaged over the levels as in the table, over the seeds that both rows have (n) and over the "
        "degradations of the main table. p: sign-flip permutation test; 95 % over images: percentile bootstrap; p "
        f"(Holm): corrected for all {len(pairs)} pairs of this table, each table for itself{_twice(pairs)}. "
        f"Established (p (Holm) < {LEVEL}) means that another draw of test images would hardly take the difference "
        "between these networks away. It does not say that other training seeds would show it: that is what the "
        f"interval over seeds is for (mean difference ± half the 95 % interval, Student t; {MISSING} for one seed)."
    )


def _twice(pairs: Sequence[Comparison]) -> str:
    """Whether some pairs are the same test under other labels, since their rows are the very same networks."""
    tests = {replace(pair, a="", b="") for pair in pairs}
    return f"; rows that are the very same networks count once, which leaves {len(tests)}" * (len(tests) < len(pairs))


def short_lines(group: Group) -> list[str]:
    """Sentences for a terminal: the established differences between our rows and the others."""
    if not _testable(group):
        return []
    if not group.comparisons:
        return [UNTESTED]
    established: list[str] = []
    open_pairs: list[str] = []
    done: set[frozenset[str]] = set()
    for ours in (row.method for row in group.leading):
        alike = []
        for row in group.rows:
            pair = group.comparison(ours, row.method)
            if pair is None or frozenset((ours, row.method)) in done:
                continue
            done.add(frozenset((ours, row.method)))
            if pair.established:
                established.append(f"  {_sentence(pair, group.name(pair.a), group.name(pair.b))}")
            else:
                alike.append(row.about.name)
        if alike:
            open_pairs.append(f"{group.name(ours)} from {listed(alike)}")
    if not done:
        return []
    lines = [_EXPLAINED, *established]
    if not established:
        lines = ["No difference of our rows from another row is established for other test images."]
    if open_pairs:
        lines.append(f"Cannot be told apart on these images: {'; '.join(open_pairs)}.")
    return lines


def _sentence(pair: Comparison, a: str, b: str) -> str:
    """A pair, its two sides called a and b, in a line for a terminal."""
    side = "above" if pair.difference > 0 else "below"
    low, high = (pair.low, pair.high) if pair.difference > 0 else (-pair.high, -pair.low)
    seeds = "one seed" if pair.seed_half is None else f"seeds ±{pair.seed_half:.2f}"
    unsure = ": open" if pair.seed_half is not None and pair.seed_half >= abs(pair.difference) else ""
    return (
        f"{a} {side} {b} by {abs(pair.difference):.2f} "
        f"({low:z.2f} to {high:z.2f}), p {_p(pair.p_holm)}, {seeds}{unsure}"
    )


def listed(names: Sequence[str]) -> str:
    """ "A, B and C"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def best_note(group: Group) -> str | None:
    """What the mark in the main table means, or why no row has it; None without tests."""
    if group.best:
        return f"{BEST}: better than {_RULE}."
    if not group.comparisons or sum(row.competes for row in group.rows) < 2:
        return None
    return f"No row has a {BEST}: none is better than {_RULE}."


class _Family(NamedTuple):
    """Points that may be compared; ``model`` is empty where they differ in it."""

    experiment: str
    dataset: str
    model: str
    protocol: str
    images: int


def sweep_grids(comparisons: pa.Table | None, methods: Methods) -> list[Grid]:
    """A table for each set of points that were tested against each other: a sweep's, on the same test images."""
    grids = []
    for family, pairs in _families(comparisons).items():
        rows = tuple(_pair_line(pair, _side(pair.a, methods), _side(pair.b, methods)) for pair in pairs)
        grids.append(Grid(_sweep_title(family), _HEADING, rows, _sweep_note(pairs), texts=2))
    return grids


def sweep_lines(comparisons: pa.Table | None, methods: Methods) -> list[str]:
    """At most twelve lines for a terminal about the pairs between points, established differences first."""
    lines: list[str] = []
    families = _families(comparisons)
    for family, pairs in list(families.items())[: _LINES // 3]:
        room = _LINES // min(len(families), _LINES // 3) - 2
        known = sum(pair.established for pair in pairs)
        lines.append(
            f"{_sweep_title(family)}: {known} of {len(pairs)} differences established (p corrected for these pairs)"
        )
        shown = pairs[:room]
        lines += [f"  {_sentence(pair, _side(pair.a, methods), _side(pair.b, methods))}" for pair in shown]
        lines += [f"  and {len(pairs) - len(shown)} more in table.md"] if len(pairs) > len(shown) else []
    return lines


def _families(comparisons: pa.Table | None) -> dict[_Family, list[Comparison]]:
    """The pairs by the family that p (Holm) is corrected for: a sweep's on the same images by the same protocol."""
    if comparisons is None or "points" not in comparisons.column_names:
        return {}
    names = [item.name for item in fields(Comparison)]
    found: dict[_Family, list[Comparison]] = {}
    for row in comparisons.to_pylist():
        if row["points"]:
            family = _Family(*(row[name] for name in _Family._fields))
            found.setdefault(family, []).append(Comparison(**{name: row[name] for name in names}))
    return {family: _established_first(pairs) for family, pairs in found.items()}


def _sweep_title(family: _Family) -> str:
    model = f", {family.model}" if family.model else ""
    where = f"{family.dataset}{model}, protocol {family.protocol}"
    return f"Between the points of {printable(family.experiment)} ({printable(where)})"


def _side(name: str, methods: Methods) -> str:
    """ "<point> <method>" in the report's words."""
    point, _, method = name.rpartition(" ")
    return f"{methods.name(method)} at {printable(point)}"


def _sweep_note(pairs: list[Comparison]) -> str:
    images = f"{pairs[0].images:,}"
    these = "this pair" if len(pairs) == 1 else f"these {len(pairs)} pairs"
    return (
        f"The same row at two points, on the same {images} test images under the same degradations and levels; points "
        "that differ in these are not compared. Tests and intervals as for the rows of a table; p (Holm) is corrected "
        f"for {these}, established means p (Holm) < {LEVEL}. Tested are the rows that are trained on all "
        "degradations or merged, those with teachers first; with many points only the first of these rows: over too "
        "many pairs nothing could be established."
    )
