"""The answer as plain text: lines for a terminal, and Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusiondistill.report.published import AVERAGE, NETWORK
from fusiondistill.report.summary import Cell, Group, headline, summarise
from fusiondistill.report.words import (
    MISSING,
    degradation_title,
    method_line,
    method_title,
    printable,
    protocol_lines,
    published_note,
)
from fusiondistill.statistics import Interval

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["caption", "cell_text", "column_title", "difference_text", "group_title", "markdown", "table_lines"]

NOTHING = "Nothing is evaluated yet."


def table_lines(results: pa.Table, *, methods: Sequence[str] = (), degradations: Sequence[str] = ()) -> list[str]:
    """The tables for a terminal: aligned lines without markup or control characters, about 90 columns wide.

    The arguments are those of :func:`~fusiondistill.report.summary.summarise`. Where the paper has a row, its figures
    stand below ours.
    """
    lines: list[str] = []
    for group in summarise(results, methods=methods, degradations=degradations):
        note = published_note(group.dataset, group.model, group.protocol)
        below = [text for text in (note, headline(group)) if text]
        lines += ["", group_title(group), *_wrapped(caption(group)), "", *_aligned(group), "", *_wrapped(*below)]
    return [line.rstrip() for line in lines[1:]] or [NOTHING]


def markdown(groups: Sequence[Group]) -> str:
    """The tables as Markdown, with what each row is and what the protocol does."""
    parts = ["# Results"] if groups else ["# Results", NOTHING]
    for group in groups:
        parts.append(f"## {_escaped(group_title(group))}")
        if sentence := headline(group):
            parts.append(_escaped(sentence))
        parts.append(_markdown_table(group))
        parts.append(_escaped(caption(group)))
        if note := published_note(group.dataset, group.model, group.protocol):
            parts.append(_escaped(note))
    methods = dict.fromkeys(row.method for group in groups for row in group.rows)
    if methods:
        rows = [f"- **{_escaped(method_title(m))}**: {_escaped(method_line(m))}" for m in methods]
        parts += ["## The rows", "\n".join(rows)]
    for protocol in dict.fromkeys(group.protocol for group in groups):
        if lines := protocol_lines(protocol):
            parts += [f"## Protocol {_escaped(protocol)}", "\n".join(f"- {_escaped(line)}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def group_title(group: Group) -> str:
    """What a table is about, in one line."""
    names = (group.experiment, f"data {group.dataset}", f"network {group.model}", f"protocol {group.protocol}")
    return " · ".join(printable(name) for name in names)


def caption(group: Group) -> str:
    """Unit, spread, seeds, images and levels of a table's numbers."""
    text = "Accuracy in %, the mean over all levels of a degradation. "
    if len(group.seeds) == 1:
        text += f"One seed ({group.seeds[0]}), so no interval. "
    else:
        text += f"Mean of n = {len(group.seeds)} seeds ± half the 95 % interval over seeds (Student t). "
        if any(0 < cell.n < len(group.seeds) for cell in _intervals(group)):
            text += "[n] marks a cell with fewer seeds. "
    return text + f"Test images per level: {_per_column(group)}. {MISSING} means not evaluated."


def column_title(column: str) -> str:
    """The heading of a column: a degradation's title, or the average."""
    return "Avg" if column == AVERAGE else degradation_title(column)


def cell_text(cell: Cell, seeds: int) -> tuple[str, str]:
    """A cell's mean and its spread, as ("83.1", "±0.4"); one seed of several gives ("83.1", "[1]"), none ("–", "")."""
    interval = cell.interval
    if interval is None:
        return MISSING, ""
    spread = [] if interval.half is None else [f"±{interval.half:.1f}"]
    if interval.n < seeds:
        spread.append(f"[{interval.n}]")
    return f"{interval.mean:.1f}", " ".join(spread)


def difference_text(group: Group, cell: Cell, figure: float) -> str:
    """Ours minus the published figure in points, as "+0.3"; empty where it would mean nothing."""
    interval = cell.interval
    return f"{interval.mean - figure:+.1f}" if interval and group.comparable else ""


def _intervals(group: Group) -> list[Interval]:
    cells = [row.cell(column) for row in group.rows for column in group.columns]
    return [interval for cell in cells if (interval := cell.interval)]


def _per_column(group: Group) -> str:
    """Test images and levels, said once where all degradations have as many images."""
    evaluated = [name for name in group.degradations if group.levels[name]]
    levels = ", ".join(f"{degradation_title(name)} {len(group.levels[name])}" for name in evaluated)
    counts = {group.images[name] for name in evaluated}
    if len(counts) == 1:
        return f"{counts.pop():,}; levels: {levels}"
    each = ", ".join(f"{degradation_title(name)} {group.images[name]:,}" for name in evaluated)
    return f"{each}; levels: {levels}"


def _body(group: Group) -> list[list[tuple[str, str]]]:
    """The table's rows below the heading, each a list of (number, what stands behind it)."""
    body = []
    for row in group.rows:
        cells = [cell_text(row.cell(column), len(group.seeds)) for column in group.columns]
        body.append([(method_title(row.method), ""), *cells])
        figures = [group.published(row.method, column) for column in group.columns]
        if any(figure is not None for figure in figures):
            line = [(f"  published, {NETWORK}", "")]
            for column, figure in zip(group.columns, figures, strict=True):
                known = figure is not None
                gap = difference_text(group, row.cell(column), figure) if figure is not None else ""
                line.append((f"{figure:.1f}" if known else "", f"({gap})" if gap else ""))
            body.append(line)
    return body


def _wrapped(*texts: str) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(text, 96)]


def _aligned(group: Group) -> list[str]:
    heading = ["", *(column_title(column) for column in group.columns)]
    body = _body(group)
    first = max(len(line[0][0]) for line in body)
    body = [[(number, f" {spread}" if spread else "") for number, spread in line] for line in body]
    spreads = [max(len(line[i][1]) for line in body) for i in range(len(heading))]
    numbers = [max(5, len(heading[i]) - spreads[i], *(len(line[i][0]) for line in body)) for i in range(len(heading))]
    titles = [f"{title:>{numbers[i] + spreads[i]}}" for i, title in enumerate(heading) if i]
    lines = ["  ".join([" " * first, *titles])]
    for line in body:
        cells = [f"{number:>{numbers[i]}}{spread:<{spreads[i]}}" for i, (number, spread) in enumerate(line) if i]
        lines.append("  ".join([f"{line[0][0]:<{first}}", *cells]))
    return lines


def _markdown_table(group: Group) -> str:
    lines = ["| | " + " | ".join(_escaped(column_title(c)) for c in group.columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(group.columns))
    for (name, _), *cells in _body(group):
        lines.append(f"| {_escaped(name.strip())} | " + " | ".join(" ".join(cell).strip() for cell in cells) + " |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Outside text that Markdown and the HTML within it leave alone, on one line."""
    flat = " ".join(printable(text).replace("&", "&amp;").replace("<", "&lt;").split())
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", flat)
