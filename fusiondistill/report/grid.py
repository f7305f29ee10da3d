"""A table of text as a value, as aligned lines for a terminal, and as Markdown."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from fusiondistill.report.words import printable

__all__ = ["WIDEST", "Entry", "Grid", "aligned", "escaped", "markdown_grid", "wrapped"]

WIDEST = 100

Entry = tuple[str, str]
"""A cell's text, and the smaller text beside it: ("83.1", "±0.4")."""


@dataclass(frozen=True)
class Grid:
    """A table: its heading (the first cell included), its rows, as long as the heading, and a note."""

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    note: str = ""
    texts: int = 1
    """How many of the first columns are text, aligned left."""


def columns_of_a_line() -> int:
    """Columns that a table or a sentence may take: the terminal's (``COLUMNS``), at most 100; 80 without a terminal."""
    return max(60, min(WIDEST, shutil.get_terminal_size().columns))


def aligned(heading: Sequence[str], rows: Sequence[Sequence[Entry]]) -> list[str]:
    """Lines for a terminal. The numbers of a column end at the same place; the texts beside them start there.

    A table that is too wide is cut into several below each other, each with the first column.
    """
    names = [printable(row[0][0]) for row in rows]
    first = max([len(printable(heading[0])), *map(len, names)])
    body = [[(printable(number), f" {printable(beside)}" if beside else "") for number, beside in row] for row in rows]
    columns = []
    for i, title in enumerate(map(printable, heading)):
        spread = max((len(row[i][1]) for row in body), default=0)
        number = max([5, len(title) - spread, *(len(row[i][0]) for row in body)])
        cells = [f"{row[i][0]:>{number}}{row[i][1]:<{spread}}" for row in body]
        columns.append([f"{title:>{number + spread}}", *cells])
    lines: list[str] = []
    start, most = 1, columns_of_a_line()
    while start < len(heading) or not lines:
        end, width = start, first
        while end < len(heading) and (end == start or width + 2 + len(columns[end][0]) <= most):
            width += 2 + len(columns[end][0])
            end += 1
        lines += [""] if lines else []
        for j, name in enumerate([printable(heading[0]), *names]):
            lines.append("  ".join([f"{name:<{first}}", *(column[j] for column in columns[start:end])]))
        start = end
    return lines


def markdown_grid(grid: Grid) -> str:
    """The table and its note as Markdown."""
    numbers = len(grid.heading) - grid.texts
    lines = ["| " + " | ".join(escaped(title) for title in grid.heading) + " |"]
    lines.append("|" + " --- |" * grid.texts + " ---: |" * numbers)
    for row in grid.rows:
        lines.append("| " + " | ".join(escaped(" ".join(entry)) for entry in row) + " |")
    return "\n".join(lines) + (f"\n\n{escaped(grid.note)}" if grid.note else "")


def wrapped(*texts: str) -> list[str]:
    """Sentences as lines for a terminal."""
    return [line for text in texts for line in textwrap.wrap(printable(text), columns_of_a_line())]


def escaped(text: str) -> str:
    """Text from outside on one line, escaped for Markdown and the HTML in it."""
    flat = " ".join(printable(text).replace("&", "&amp;").replace("<", "&lt;").split())
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", flat)
