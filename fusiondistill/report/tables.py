"""The tables of accuracies as grids of text: the answer, its spread over seeds, the overview of several groups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fusiondistill.counting import counted
from fusiondistill.report.answers import ONE_CLASS, beside, classes_note, marked_name, together_note
from fusiondistill.report.comparisons import BEST, best_note
from fusiondistill.report.grid import Entry, Grid
from fusiondistill.report.groups import FULL, TRAINED, Cell, Group, Row
from fusiondistill.report.published import AVERAGE, NETWORK
from fusiondistill.report.words import MISSING, degradation_title, kind_lines, printable, short_title
from fusiondistill.statistics import Interval

__all__ = [
    "NOTHING", "answer_grid", "answer_row", "caption", "caption_lines", "cell_text", "column_title", "group_title",
    "headline", "overview_grid", "published_row", "seeds_grid",
]  # fmt: skip

NOTHING = "Nothing is evaluated yet."
_NAMES = (("", "experiment"), ("data ", "dataset"), ("network ", "model"), ("protocol ", "protocol"))
_PRECISION = ("evaluated in ", "precision")  # named where it is not the default


def group_title(group: Group) -> str:
    """A table's title, in one line."""
    names = _NAMES if group.precision == FULL else (*_NAMES, _PRECISION)
    return " · ".join(before + printable(getattr(group, name)) for before, name in names)


def column_title(group: Group, column: str) -> str:
    """The heading of a column: a degradation's title, or the average; an asterisk marks interpolated levels."""
    title = "Avg" if column == AVERAGE else short_title(column)
    return f"{title}*" if group.interpolated(column) else title


def answer_grid(group: Group) -> Grid:
    """A group's table, the paper's figures below ours where it has some."""
    rows: list[tuple[Entry, ...]] = []
    for row in group.rows:
        rows.append(((marked_name(row), ""), *answer_row(group, row)))
        if figures := published_row(group, row):
            rows.append(((f"  published, {NETWORK}", ""), *figures))
    heading = ("", *(column_title(group, column) for column in group.columns))
    return Grid(group_title(group), heading, tuple(rows), caption(group))


def answer_row(group: Group, row: Row) -> list[Entry]:
    """A method's numbers, one entry per column of the group; the best average is marked."""
    entries = [cell_text(row.cell(column), len(group.seeds)) for column in group.columns]
    if row.method == group.best:
        number, beside = entries[-1]
        entries[-1] = number, f"{beside} {BEST}".strip()
    return entries


def published_row(group: Group, row: Row) -> list[Entry]:
    """The paper's figures for a row, if it has any; beside them ours minus theirs where these may be compared."""
    figures = [group.published(row.method, column) for column in group.columns]
    if all(figure is None for figure in figures):
        return []
    entries: list[Entry] = []
    for column, figure in zip(group.columns, figures, strict=True):
        if figure is None:
            entries.append(("", ""))
            continue
        interval = row.cell(column).interval
        gap = f"({interval.mean - figure:+z.1f})" if interval and group.comparable else ""
        entries.append((f"{figure:.1f}", gap))
    return entries


def cell_text(cell: Cell, seeds: int, digits: int = 1) -> Entry:
    """A cell's mean and its spread with ``digits`` decimals.

    ("83.1", "±0.4"); ("83.1", "[1]") where one seed of several has it; ("–", "") where none has.
    """
    interval = cell.interval
    if interval is None:
        return MISSING, ""
    spread = [] if interval.half is None else [f"±{interval.half:.{digits}f}"]
    if interval.n < seeds:
        spread.append(f"[{interval.n}]")
    return f"{interval.mean:.{digits}f}", " ".join(spread)


def seeds_grid(group: Group) -> Grid | None:
    """Mean, sample standard deviation and 95 % interval of every cell; None where no cell has two seeds."""
    body = []
    for row in group.rows:
        entries = [_spread(row.cell(column).interval) for column in group.columns]
        body.append(((marked_name(row), ""), *entries))
    if not any(interval.n > 1 for interval in _intervals(group)):
        return None
    heading = ("", *(column_title(group, column) for column in group.columns))
    note = (
        "Accuracy in %: mean, s the sample standard deviation over n seeds, low .. high the 95 % interval of the mean "
        "(Student t, n - 1 degrees of freedom)."
    )
    return Grid("Spread over seeds", heading, tuple(body), note)


def _spread(interval: Interval | None) -> Entry:
    if interval is None:
        return MISSING, ""
    if interval.half is None or interval.deviation is None:
        return f"{interval.mean:.2f}", "(n 1)"
    low, high = interval.mean - interval.half, interval.mean + interval.half
    return f"{interval.mean:.2f}", f"s {interval.deviation:.2f} (n {interval.n}), {low:z.2f} .. {high:z.2f}"


def overview_grid(groups: Sequence[Group]) -> Grid | None:
    """A row per group, a column per method, the averages in the cells; None for fewer than two groups."""
    if len(groups) < 2:
        return None
    telling = [(b, name) for b, name in (*_NAMES, _PRECISION) if len({getattr(group, name) for group in groups}) > 1]
    found = {row.method: row.about for group in reversed(groups) for row in group.rows if not row.is_expert}
    methods = sorted(found.values(), key=lambda method: method.rank)
    body = []
    for group in groups:
        title = " · ".join(before + printable(getattr(group, name)) for before, name in telling)
        entries: list[Entry] = []
        for method in methods:
            row = group.row(method.id)
            number, beside = answer_row(group, row)[-1] if row else ("", "")
            entries.append((number, f"{beside} {ONE_CLASS}".strip() if row and row.always else beside))
        body.append(((title, ""), *entries))
    note = (
        "Avg of each table: mean accuracy in % over levels and degradations, ± half the 95 % interval over "
        f"seeds. {MISSING} means not evaluated, an empty cell that the method is not part of that experiment."
    )
    starred = [group for group in groups if group.best]
    note += f" {best_note(starred[0])}" if starred else ""
    constant = any(row.always for group in groups for row in group.rows)
    note += f" {ONE_CLASS}: it names one class for every image." if constant else ""
    note += (
        " Some averages hold interpolated levels: see there." if any(g.interpolated(AVERAGE) for g in groups) else ""
    )
    return Grid("Overview", ("", *(method.name for method in methods)), tuple(body), note)


def caption(group: Group) -> str:
    """Unit, spread, seeds, images and levels of a table's numbers."""
    return " ".join(caption_lines(group))


def caption_lines(group: Group) -> list[str]:
    """The parts of :func:`caption`, each about one thing."""
    opening = [] if group.kind == TRAINED else [kind_lines(group.kind)]
    if not any(group.levels.values()):
        return [*opening, NOTHING]
    text = "Accuracy in %, the mean over the levels of a degradation. "
    if len(group.seeds) == 1:
        text += f"One seed ({group.seeds[0]}), so no interval."
    else:
        text += f"Mean of n = {len(group.seeds)} seeds ± half the 95 % interval over seeds (Student t)."
        if any(0 < cell.n < len(group.seeds) for cell in _intervals(group)):
            text += " [n] marks a cell with fewer seeds."
    images = f"Test images per level: {_per_column(group)}. {MISSING} means not evaluated."
    return [*opening, text, *(note for note in _notes(group) if note), images]


def _notes(group: Group) -> tuple[str | None, ...]:
    return _interpolation(group), best_note(group), together_note(group), classes_note(group), _meaning(group)


def headline(group: Group) -> str | None:
    """The answer in one sentence, or None while none of our rows is evaluated.

    It names our rows, the best other rows trained on all degradations (at most two), the base, and the first row that
    is told the degradation.
    """
    rows, ours, told = group.rows, group.leading, [row for row in group.rows if row.about.told]
    others = [row for row in rows if row.about.form == "all" and row not in group.ours and row.about.start != "random"]
    base = [group.base] if group.base else []
    shown = [row for row in (*ours, *others[-2:][::-1], *base, *told[:1]) if row.average.interval]
    if not any(row in ours for row in shown):
        return None
    said = ", ".join(_said(row, spread=row in ours) for row in shown)
    count = len(group.degradations)
    averaged = f"mean over {count} degradations" if count > 1 else degradation_title(group.degradations[0])
    clean = " / clean" if any(row.clean.interval for row in shown) else ""
    spread = "; ± half the 95 % interval over seeds" if "±" in said else ""
    return f"Accuracy on {printable(group.dataset)}, degraded{clean} ({averaged}{spread}): {said}."


def _said(row: Row, *, spread: bool) -> str:
    """A row's average and clean accuracy in words; ``spread`` adds half the average's interval over seeds."""
    interval, clean = row.average.interval, row.clean.interval
    assert interval
    half = f" ±{interval.half:.1f}" if spread and interval.half is not None else ""
    of_clean = f" / {clean.mean:.1f}" if clean else ""
    said = beside(row)
    return f"{row.about.name} {interval.mean:.1f}{half}{of_clean} %" + (f" ({', '.join(said)})" if said else "")


def _interpolation(group: Group) -> str | None:
    """Which levels were measured, for the columns with an asterisk."""
    ways: dict[str, list[str]] = {}
    for name in group.degradations:
        if group.interpolated(name):
            span, levels = group.spans[name], group.levels[name]
            listed = len(span) <= span[-1] - span[0]  # the steps between levels of a list say nothing
            way = counted(len(levels), "level") if listed else _measured(levels)
            ways.setdefault(way, []).append(short_title(name))
    if not ways:
        return None
    said = "; ".join(f"{', '.join(names)}: {way} measured, the rest interpolated" for way, names in ways.items())
    return f"* {said} (linearly between measured neighbours)."


def _measured(levels: Sequence[int]) -> str:
    steps = [b - a for a, b in pairwise(levels)]
    if not steps:
        return "one level"
    if len(set(steps[:-1])) > 1 or steps[-1] > steps[0] or steps[0] == 1:
        return f"{len(levels)} levels"
    step = steps[0]
    ending = "th" if step % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(step % 10, "th")
    return f"every {step}{ending} level" + (" and the last" if steps[-1] < step else "")


def _meaning(group: Group) -> str | None:
    """What a level of each column is, and on images of which size."""
    told = [
        name for name in group.degradations if group.levels[name] and (about := group.about.get(name)) and about.means
    ]
    if not told:
        return None
    size = f", on images of {printable(group.size)} pixels" if group.size else ""
    return f"A level{size}: {'; '.join(_of_column(group, name) for name in told)}."


def _of_column(group: Group, name: str) -> str:
    about = group.about[name]
    own = [printable(about.name)] if about.name != name else []
    own += [f"levels {printable(about.said)}"] if about.said else []
    return f"{short_title(name)}{' (' + ', '.join(own) + ')' if own else ''} {printable(about.means)}"


def _intervals(group: Group) -> list[Interval]:
    cells = [row.cell(column) for row in group.rows for column in group.columns]
    return [interval for cell in cells if (interval := cell.interval)]


def _per_column(group: Group) -> str:
    """Test images and levels, said once where all degradations have as many images."""
    evaluated = [name for name in group.degradations if group.levels[name]]
    levels = ", ".join(f"{short_title(name)} {_count(group, name)}" for name in evaluated)
    counts = {group.images[name] for name in evaluated}
    if len(counts) == 1:
        return f"{counts.pop():,}; levels: {levels}"
    each = ", ".join(f"{short_title(name)} {group.images[name]:,}" for name in evaluated)
    return f"{each}; levels: {levels}"


def _count(group: Group, name: str) -> str:
    count = str(len(group.levels[name]))
    if not group.interpolated(name):
        return count
    return f"{count} of {len(group.spans[name])}"
