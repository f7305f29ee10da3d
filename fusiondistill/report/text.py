"""The answer as plain text: lines for a terminal, and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusiondistill.report.between import between_grids, between_lines
from fusiondistill.report.beyond import beyond_grid
from fusiondistill.report.comparing import comparison_grid, short_lines
from fusiondistill.report.grid import Grid, aligned, escaped, markdown_grid, wrapped
from fusiondistill.report.groups import Group
from fusiondistill.report.summary import headline, summarise
from fusiondistill.report.tables import NOTHING, answer_grid, group_title, overview_grid, seeds_grid
from fusiondistill.report.words import kind_title, method_line, method_title, protocol_lines, published_note

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["markdown", "overview_lines", "table_lines"]


def table_lines(
    results: pa.Table,
    *,
    planned: pa.Table | None = None,
    comparisons: pa.Table | None = None,
    methods: Sequence[str] = (),
    degradations: Sequence[str] = (),
) -> list[str]:
    """The tables for a terminal: aligned lines without markup or control characters, up to 100 columns wide.

    The arguments are those of :func:`~fusiondistill.report.summary.summarise`. Where the paper has a row, its figures
    stand below ours. Several groups open with an overview.
    """
    groups = summarise(
        results, planned=planned, comparisons=comparisons, methods=methods, degradations=degradations
    )  # fmt: skip
    above = (_overview_lines(groups), between_lines(comparisons))
    parts = [part for part in (*above, *map(_group_lines, groups)) if part]
    lines = [line.rstrip() for part in parts for line in ("", *part)]
    return lines[1:] or [NOTHING]


def overview_lines(
    results: pa.Table, *, planned: pa.Table | None = None, comparisons: pa.Table | None = None
) -> list[str]:
    """What :func:`table_lines` says above the tables of several groups, without these; its arguments."""
    lines = _overview_lines(summarise(results, planned=planned, comparisons=comparisons)) or [NOTHING]
    between = between_lines(comparisons)
    return [line.rstrip() for line in (*lines, *([""] if between else []), *between)]


def _overview_lines(groups: Sequence[Group]) -> list[str]:
    overview = overview_grid(groups)
    return _grid_lines(overview) if overview else []


def _group_lines(group: Group) -> list[str]:
    note = published_note(group.dataset, group.model, group.protocol, group.deviations)
    answer = answer_grid(group)
    lines = [answer.title, *wrapped(answer.note), "", *aligned(answer.heading, answer.rows), ""]
    lines += wrapped(*(text for text in (note, headline(group)) if text))
    if said := short_lines(group):
        lines += ["", *(part for line in said for part in _hanging(line))]
    if beyond := beyond_grid(group, brief=True):
        lines += ["", *_grid_lines(beyond)]
    for other in group.others:
        grid = answer_grid(other)
        lines += ["", kind_title(other.kind), *wrapped(grid.note), "", *aligned(grid.heading, grid.rows)]
    return lines


def _grid_lines(grid: Grid) -> list[str]:
    return [grid.title, *wrapped(grid.note), "", *aligned(grid.heading, grid.rows)]


def _hanging(text: str) -> list[str]:
    """Wrapped, with the indentation of its beginning on every line."""
    indent = text[: len(text) - len(text.lstrip())]
    return [indent + line for line in wrapped(text.strip())]


def markdown(groups: Sequence[Group], comparisons: pa.Table | None = None) -> str:
    """The tables as Markdown, with what each row is and what the protocol does; of the tests those between points."""
    parts = ["# Results"] if groups else ["# Results", NOTHING]
    if overview := overview_grid(groups):
        parts += ["## Overview", markdown_grid(overview)]
    parts += _sections(*between_grids(comparisons), level="##")
    for group in groups:
        parts.append(f"## {escaped(group_title(group))}")
        if sentence := headline(group):
            parts.append(escaped(sentence))
        parts.append(markdown_grid(answer_grid(group)))
        parts += [escaped(f"Trained on {group.training}.")] if group.training else []
        if note := published_note(group.dataset, group.model, group.protocol, group.deviations):
            parts.append(escaped(note))
        parts += _comparisons(group)
        parts += _sections(beyond_grid(group), seeds_grid(group))
        for other in group.others:
            parts += [f"### {escaped(kind_title(other.kind))}", markdown_grid(answer_grid(other))]
            parts += _sections(beyond_grid(other), seeds_grid(other), level="####")
    methods = dict.fromkeys(row.method for group in groups for row in group.rows)
    if methods:
        rows = [f"- **{escaped(method_title(m))}**: {escaped(method_line(m))}" for m in methods]
        parts += ["## The rows", "\n".join(rows)]
    for protocol, select in dict.fromkeys((group.protocol, group.select) for group in groups):
        if lines := protocol_lines(protocol, select):
            parts += [f"## Protocol {escaped(protocol)}", "\n".join(f"- {escaped(line)}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _comparisons(group: Group) -> list[str]:
    """The paired tests: what they say of our rows, then all pairs."""
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
