"""The parts of a page as plain values, which the templates turn into HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from fusiondistill.report.figures import Picture
from fusiondistill.report.grid import Grid

WIDE = 9  # columns that fit on paper side by side
_FEW, _FEW_OF_GRID = 12, 20  # rows of a table that is shown unfolded


class Mark(NamedTuple):
    """Words within a text that link to a place on the page, or stand out."""

    text: str
    href: str = ""


class Number(NamedTuple):
    """A cell that links to the counts behind its number, by the table, row and column that the page's script reads."""

    text: str
    beside: str
    href: str
    table: str
    row: int
    column: int


class Shot(NamedTuple):
    """A cell with a picture (PNG in base64), its text alternative, and verdicts: (right or not known, who, answer)."""

    png: str
    alt: str
    verdicts: Sequence[tuple[bool | None, str, str]]


Inline: TypeAlias = "str | Sequence[str | Mark]"


@dataclass(frozen=True)
class Text:
    """A paragraph, or another element that holds text alone; ``role`` is its CSS class."""

    text: Inline
    role: str = "note"
    tag: str = "p"


@dataclass(frozen=True)
class Terms:
    """Words and what they mean; ``role`` is the list's CSS class."""

    terms: Sequence[tuple[str, Inline | Block]]
    role: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Figures:
    """Figures beside each other, the wide ones below."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Folded:
    """Blocks that open when their title is clicked."""

    title: str
    blocks: Sequence[Block]
    id: str = ""
    role: str = ""


@dataclass(frozen=True)
class Table:
    """A table in a box that scrolls sideways.

    Attributes:
        label: what a screen reader calls the box.
        heading: one title a column; an empty one is no heading.
        rows: cells are text, numbers, grid entries, :class:`Mark`, :class:`Number` or :class:`Shot`.
        role: CSS classes.
        named: whether the first cell is its row's heading.
        roles: CSS classes of single rows.
        ids: ids of single rows.
    """

    label: str
    heading: Sequence[str]
    rows: Sequence[Sequence[object]]
    role: str
    named: bool = True
    roles: Mapping[int, str] = field(default_factory=dict)
    ids: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """A square table of shares: its title, the names of its lines and columns, and each line's shares in percent."""

    title: str
    names: Sequence[str]
    shares: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Matrices:
    """Matrices beside each other; shares on the diagonal are right, the others wrong."""

    matrices: Sequence[Matrix]


Block: TypeAlias = "Text | Terms | Bullets | Figures | Folded | Table | Matrices"


@dataclass(frozen=True)
class Section:
    """A part of the page that its table of contents links to; ``anchor`` is its id."""

    anchor: str
    title: str
    blocks: Sequence[Block]


def named(title: str, blocks: Sequence[Block]) -> list[Block]:
    """Blocks under a heading; nothing where there are none."""
    return [Text(title, "", "h3"), *blocks] if blocks else []


def figures(pictures: Sequence[Picture]) -> list[Block]:
    """The figures, if there are any."""
    return [Figures(pictures)] if pictures else []


def plain_table(heading: Sequence[str], rows: Sequence[Sequence[object]], label: str, *, texts: int = 1) -> Block:
    """A table whose first ``texts`` columns are text; a long one is folded away, and can be sorted and filtered."""
    table = Table(label, heading, rows, f"plain text-{texts}", named=False)
    return table if len(rows) <= _FEW else _folded(replace(table, role=f"{table.role} sortable"))


def grid_table(grid: Grid, links: Sequence[str] = ()) -> Table:
    """A grid as a table; a long one can be sorted and filtered. ``links``: the target of each row's name."""
    rows: list[Sequence[object]] = [
        (Mark(name, links[i]) if links else name, *entries) for i, ((name, _), *entries) in enumerate(grid.rows)
    ]
    sortable, many = " sortable" * (len(rows) > 5), " many" * (len(grid.heading) > WIDE)
    return Table(grid.title, grid.heading, rows, f"grid text-{grid.texts}{sortable}{many}")


def grid_blocks(grid: Grid | None, *, fold: bool = False, what: str = "rows") -> list[Block]:
    """A grid with its note; a long one, or one that is to be folded, opens on demand."""
    if grid is None:
        return []
    note: list[Block] = [Text(grid.note)] if grid.note else []
    if not grid.rows:
        return note
    table = grid_table(grid)
    if fold:
        return [Folded(grid.title, [table, *note])]
    return [_folded(table, what) if len(table.rows) > _FEW_OF_GRID else table, *note]


def titled_grid(grid: Grid | None) -> list[Block]:
    """:func:`grid_blocks` under the grid's title."""
    return named(grid.title, grid_blocks(grid)) if grid else []


def _folded(table: Table, what: str = "rows") -> Folded:
    return Folded(f"All {len(table.rows)} {what}", [table])
