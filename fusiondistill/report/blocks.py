"""What the page is made of: plain values, which the templates turn into HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, TypeAlias

from fusiondistill.report.figures import Picture
from fusiondistill.report.grid import Grid

__all__ = [
    "Block", "Bullets", "Code", "Figures", "Folded", "Heading", "Inline", "Link", "Number", "Section", "Shot", "Strong",
    "Table", "Terms", "Text", "grid_blocks", "grid_table", "named", "pairs_blocks", "plain_table",
]  # fmt: skip

_FEW, _FEW_OF_GRID = 12, 20  # rows of a table that is shown without being asked for
_WIDE = 9  # columns that fit on paper side by side


class Link(NamedTuple):
    """Words that lead to a place on the page."""

    text: str
    href: str


class Strong(NamedTuple):
    """Words that stand out."""

    strong: str


Inline: TypeAlias = "str | Sequence[str | Link | Strong]"


@dataclass(frozen=True)
class Text:
    """A paragraph; ``role`` is its CSS class."""

    shape: ClassVar[str] = "text"
    text: Inline
    role: str = "note"


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    shape: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Code:
    """Lines that are kept as they are."""

    shape: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Terms:
    """Words and what they mean; ``role`` is the list's CSS class."""

    shape: ClassVar[str] = "terms"
    items: Sequence[tuple[str, Inline | Block]]
    role: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    shape: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Figures:
    """Figures beside each other, below them the wide ones."""

    shape: ClassVar[str] = "figures"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Folded:
    """Blocks that open when their title is clicked."""

    shape: ClassVar[str] = "folded"
    title: str
    blocks: Sequence[Block]
    id: str = ""
    role: str = ""


class Number(NamedTuple):
    """A cell that leads to the counts behind its number: the table, row and column that the page's script asks for."""

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


@dataclass(frozen=True)
class Table:
    """A table in a box that scrolls sideways.

    Attributes:
        label: what a screen reader calls the box.
        heading: one title a column; an empty one is no heading.
        rows: cells are text, numbers, grid entries, links, :class:`Number` or :class:`Shot`.
        role: CSS classes.
        named: whether the first cell is its row's heading.
        roles: CSS classes of single rows.
        ids: ids of single rows.
    """

    shape: ClassVar[str] = "table"
    label: str
    heading: Sequence[str]
    rows: Sequence[Sequence[object]]
    role: str
    named: bool = True
    roles: Mapping[int, str] = field(default_factory=dict)
    ids: Mapping[int, str] = field(default_factory=dict)


Block: TypeAlias = "Text | Heading | Code | Terms | Bullets | Figures | Folded | Table"


@dataclass(frozen=True)
class Section:
    """A part of the page that its table of contents leads to; ``anchor`` is the id that links use."""

    anchor: str
    title: str
    blocks: Sequence[Block]


def named(title: str, blocks: Sequence[Block]) -> list[Block]:
    """Blocks under a heading; nothing where there are none."""
    return [Heading(title), *blocks] if blocks else []


def plain_table(heading: Sequence[str], rows: Sequence[Sequence[object]], label: str, *, texts: int = 1) -> Block:
    """A table whose first ``texts`` columns are text; a long one is folded away, and can be sorted and filtered."""
    table = Table(label, heading, rows, f"plain text-{texts}", named=False)
    if len(rows) <= _FEW:
        return table
    return Folded(f"All {len(rows)} rows", [replace(table, role=f"{table.role} sortable")])


def grid_table(grid: Grid, links: Sequence[str] = ()) -> Table:
    """A grid as a table; a long one can be sorted and filtered. ``links``: where each row's name leads."""
    rows: list[Sequence[object]] = [
        (Link(name, links[i]) if links else name, *entries) for i, ((name, _), *entries) in enumerate(grid.rows)
    ]
    sortable, many = " sortable" * (len(rows) > 5), " many" * (len(grid.heading) > _WIDE)
    return Table(grid.title, grid.heading, rows, f"grid text-{grid.texts}{sortable}{many}")


def grid_blocks(grid: Grid | None, *, fold: bool = False) -> list[Block]:
    """A grid with its heading and note; a long one, or one that is to be folded, opens on demand."""
    if grid is None:
        return []
    note: list[Block] = [Text(grid.note)] if grid.note else []
    if not grid.rows:
        return [Heading(grid.title), *note]
    table = grid_table(grid)
    if fold:
        return [Folded(grid.title, [table, *note])]
    return [Heading(grid.title), _short(table, "rows"), *note]


def _short(table: Table, what: str) -> Block:
    return Folded(f"All {len(table.rows)} {what}", [table]) if len(table.rows) > _FEW_OF_GRID else table


def pairs_blocks(grid: Grid) -> list[Block]:
    """The tests between the points of a sweep; many pairs open on demand."""
    return [_short(grid_table(grid), "pairs"), Text(grid.note)]
