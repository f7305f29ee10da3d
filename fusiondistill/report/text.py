"""The answer as plain text: lines for a terminal, Markdown, and LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusiondistill.report.beyond_accuracy import beyond_grid
from fusiondistill.report.comparisons import BEST, comparison_grid, short_lines, sweep_grids, sweep_lines
from fusiondistill.report.costs import cost_grid
from fusiondistill.report.grid import Entry, Grid, aligned, escaped, markdown_grid, wrapped
from fusiondistill.report.groups import Group
from fusiondistill.report.methods import Methods, described
from fusiondistill.report.routing import routing_grids
from fusiondistill.report.shares import share_grid
from fusiondistill.report.summary import summarise
from fusiondistill.report.tables import NOTHING, answer_grid, group_title, headline, overview_grid, seeds_grid
from fusiondistill.report.words import MISSING, kind_title, printable, protocol_lines, published_note

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["explained", "latex", "latex_escaped", "markdown", "overview_lines", "table_lines"]


def table_lines(
    results: pa.Table,
    *,
    planned: pa.Table | None = None,
    comparisons: pa.Table | None = None,
    shares: pa.Table | None = None,
    routing: pa.Table | None = None,
) -> list[str]:
    """The tables for a terminal: aligned lines without markup or control characters.

    They are as wide as the terminal (``COLUMNS``): 100 columns at most, and 80 without a terminal.

    The arguments are those of :func:`~fusiondistill.report.summary.summarise`. Where the paper has a row, its figures
    stand below ours. Several groups open with an overview.
    """
    groups = summarise(results, planned=planned, comparisons=comparisons, shares=shares, routing=routing)
    above = (_overview_lines(groups), sweep_lines(comparisons, described(planned)[""]))
    parts = [part for part in (*above, *map(_group_lines, groups)) if part]
    lines = [line.rstrip() for part in parts for line in ("", *part)]
    return lines[1:] or [NOTHING]


def overview_lines(
    results: pa.Table, *, planned: pa.Table | None = None, comparisons: pa.Table | None = None, **rest: Any
) -> list[str]:
    """The lines of :func:`table_lines` above the tables of several groups; the same arguments."""
    lines = _overview_lines(summarise(results, planned=planned, comparisons=comparisons)) or [NOTHING]
    between = sweep_lines(comparisons, described(planned)[""])
    return [line.rstrip() for line in (*lines, *([""] if between else []), *between)]


def _overview_lines(groups: Sequence[Group]) -> list[str]:
    overview = overview_grid(groups)
    return _grid_lines(overview) if overview else []


def _group_lines(group: Group) -> list[str]:
    note = published_note(group.dataset, group.model, group.protocol, group.deviations)
    answer = answer_grid(group)
    lines = [*wrapped(answer.title, answer.note), "", *aligned(answer.heading, answer.rows), ""]
    lines += wrapped(*(text for text in (note, headline(group)) if text))
    if said := short_lines(group):
        lines += ["", *(part for line in said for part in _hanging(line))]
    for grid in (share_grid(group), beyond_grid(group, brief=True), *routing_grids(group)):
        lines += ["", *_grid_lines(grid)] if grid else []
    for other in group.others:
        grid = answer_grid(other)
        lines += ["", kind_title(other.kind), *wrapped(grid.note), "", *aligned(grid.heading, grid.rows)]
    return lines


def _grid_lines(grid: Grid) -> list[str]:
    return [*wrapped(grid.title, grid.note), *(["", *aligned(grid.heading, grid.rows)] if grid.rows else [])]


def _hanging(text: str) -> list[str]:
    """Wrapped, with the indentation of its beginning on every line."""
    indent = text[: len(text) - len(text.lstrip())]
    return [indent + line for line in wrapped(text.strip())]


def markdown(
    groups: Sequence[Group],
    comparisons: pa.Table | None,
    methods: Methods,
    *,
    best: Sequence[str] = (),
    costs: pa.Table | None = None,
) -> str:
    """The tables as Markdown, with the rows and protocols explained, and the tests between points of a sweep.

    ``best``: Markdown about the best single network, for the top; ``costs``: see :func:`report.costs.cost_grid`.
    """
    parts = ["# Results", *best] if groups else ["# Results", NOTHING]
    if overview := overview_grid(groups):
        parts += ["## Overview", markdown_grid(overview)]
    parts += _sections(*sweep_grids(comparisons, methods), level="##")
    for group in groups:
        parts.append(f"## {escaped(group_title(group))}")
        if sentence := headline(group):
            parts.append(escaped(sentence))
        parts.append(markdown_grid(answer_grid(group)))
        parts += [escaped(f"Trained on {group.training}.")] if group.training else []
        if note := published_note(group.dataset, group.model, group.protocol, group.deviations):
            parts.append(escaped(note))
        parts += _comparisons(group)
        parts += _sections(share_grid(group), beyond_grid(group), seeds_grid(group), cost_grid(group, costs))
        parts += _sections(*routing_grids(group))
        for other in group.others:
            parts += [f"### {escaped(kind_title(other.kind))}", markdown_grid(answer_grid(other))]
            parts += _sections(beyond_grid(other), seeds_grid(other), level="####")
    if rows := [f"- **{escaped(name)}**: {escaped(line)}" for name, line in explained(groups)]:
        parts += ["## The rows", "\n".join(rows)]
    for protocol, select in dict.fromkeys((group.protocol, group.select) for group in groups):
        if lines := protocol_lines(protocol, select):
            parts += [f"## Protocol {escaped(protocol)}", "\n".join(f"- {escaped(line)}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def explained(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """(name, describing sentence) of each row, once where several tables have the same row."""
    found = {(row.about.id, row.about.name, row.about.line): row.about for group in groups for row in group.rows}
    return [(method.name, method.line) for method in sorted(found.values(), key=lambda method: method.rank)]


def _comparisons(group: Group) -> list[str]:
    """The paired tests: sentences about our rows, then all pairs."""
    grid = comparison_grid(group)
    if grid is None or not grid.rows:
        return _sections(grid)
    said = [f"- {escaped(line)}" if line.startswith(" ") else f"\n{escaped(line)}\n" for line in short_lines(group)]
    return [f"### {grid.title}", *(["\n".join(said).strip()] if said else []), markdown_grid(grid)]


def _sections(*grids: Grid | None, level: str = "###") -> list[str]:
    """A heading and a table for each; one without rows is its note alone."""
    parts = []
    for grid in grids:
        if grid:
            parts += [f"{level} {escaped(grid.title)}", markdown_grid(grid) if grid.rows else escaped(grid.note)]
    return parts


_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "±": r"$\pm$", MISSING: "--", "·": r"$\cdot$", BEST: r"$\star$", "→": r"$\rightarrow$",
    "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip


def latex(groups: Sequence[Group]) -> str:
    """A ``tabular`` for each table, with comments about the packages that it needs and about its numbers."""
    lines = [
        r"% Made by fusiondistill report. Needs \usepackage{booktabs}, and T1 fonts (\usepackage[T1]{fontenc}) for",
        r"% quotation marks in names. Read it with \input; several tables follow each other.",
    ]
    if not groups:
        return "\n".join([*lines, f"% {NOTHING}", ""])
    for group in groups:
        lines += _tabular(group)
        for other in group.others:
            lines += _comment(kind_title(other.kind)) + _tabular(other)
    return "\n".join([*lines, ""])


def _tabular(group: Group) -> list[str]:
    grid = answer_grid(group)
    head = " & ".join(latex_escaped(title) for title in grid.heading)
    lines = ["%", *_comment(grid.title), *_comment(grid.note)]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(grid.heading) - 1)}}}", r"\toprule", rf"{head} \\", r"\midrule"]
    lines += [" & ".join(map(_cell, row)) + r" \\" for row in grid.rows]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _cell(entry: Entry) -> str:
    number, beside = entry
    # A cell that begins with "[" would be read as an option of the line break before it.
    return f"{{{latex_escaped(number.strip())}}}" + (f" {{\\footnotesize {latex_escaped(beside)}}}" if beside else "")


def _comment(text: str) -> list[str]:
    """The text as one comment: it cannot end before the line does."""
    return [f"% {line}" for line in printable(text, lines=True).splitlines()]


def latex_escaped(text: str) -> str:
    r"""Text from outside on one line, escaped for LaTeX.

    >>> latex_escaped("a_b & 50 %")
    'a\\_b \\& 50 \\%'
    """
    return "".join(_SPECIAL.get(c, c) for c in " ".join(printable(text).split()))
