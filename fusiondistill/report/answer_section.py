"""The page's sections about one table of results: the answer, the tests, the levels, gains and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusiondistill.counting import counted
from fusiondistill.report import blocks, tables
from fusiondistill.report.answers import beside
from fusiondistill.report.beyond_accuracy import beyond_grid
from fusiondistill.report.blocks import Block, Folded, Inline, Mark, Number, Section, Table, Terms, Text
from fusiondistill.report.comparisons import comparison_grid, short_lines
from fusiondistill.report.counts import Counts, anchor, counts_block
from fusiondistill.report.figures import Picture
from fusiondistill.report.grid import Entry, Grid
from fusiondistill.report.groups import Group
from fusiondistill.report.published import NETWORK
from fusiondistill.report.routing import routing_grids
from fusiondistill.report.shares import share_grid
from fusiondistill.report.words import kind_title, printable, protocol_line, published_note

__all__ = ["Drawn", "group_section", "group_sections", "setup"]


@dataclass(frozen=True)
class Drawn:
    """The parts that belong to one table: its name in ids, figures, counts (None: the page has no room), and costs."""

    table: str
    levels: Sequence[Picture] = ()
    maps: Sequence[Picture] = ()
    counts: Counts | None = None
    costs: Grid | None = None


def group_sections(group: Group, drawn: Sequence[Drawn]) -> list[Section]:
    """The sections of the only table of a page; ``drawn``: of the group itself, then of each of its ``others``."""
    first, *parts = _parts(group, drawn[0])
    anchors = ("established", "levels", "maps")
    found = [Section(f"table-{drawn[0].table}", *first)]
    found += [Section(name, *part) for name, part in zip(anchors, parts, strict=True)]
    for other, of in zip(group.others, drawn[1:], strict=True):
        found.append(Section(f"table-{of.table}", kind_title(other.kind), _other(other, of)))
    return [section for section in found if section.blocks]


def group_section(group: Group, drawn: Sequence[Drawn]) -> Section:
    """One of several tables of a page, all in one section."""
    (_, opening), *parts = _parts(group, drawn[0])
    sentence = tables.headline(group)
    shown = [*([Text(sentence, "")] if sentence else []), setup(group), *opening]
    for title, of in parts:
        shown += blocks.named(title, of)
    for other, of_other in zip(group.others, drawn[1:], strict=True):
        shown += blocks.named(kind_title(other.kind), _other(other, of_other))
    return Section(f"table-{drawn[0].table}", tables.group_title(group), shown)


def _parts(group: Group, drawn: Drawn) -> list[tuple[str, list[Block]]]:
    """(title, blocks) of the accuracies, the tests, the levels, gains and costs."""
    return [
        ("Accuracies", _opening(group, drawn)),
        ("Which differences are established", _believed(group)),
        ("Accuracy against level", blocks.figures(drawn.levels)),
        (
            "Gains and costs",
            [
                *blocks.figures(drawn.maps),
                *blocks.titled_grid(share_grid(group)),
                *blocks.titled_grid(beyond_grid(group)),
                *blocks.titled_grid(drawn.costs),
                *(block for grid in routing_grids(group) for block in blocks.titled_grid(grid)),
            ],
        ),
    ]


def setup(group: Group) -> Terms:
    """Data, network, seeds, protocol and training of a table, a line each."""
    images = max(group.images.values(), default=0)
    items: dict[str, Inline] = {
        "Data": printable(group.dataset) + (f", {images:,} test images" if images else ""),
        "Network": group.model,
        "Seeds": ", ".join(map(str, group.seeds)) or "none evaluated yet",
        "Protocol": (Mark(group.protocol), f": {protocol_line(group.protocol, group.select)} ",
                     Mark("More", "#protocol")),
        "Training": group.training,
        "Missing": _missing(group),
    }  # fmt: skip
    return Terms([(name, value) for name, value in items.items() if value], "setup")


def _missing(group: Group) -> str:
    """How many numbers of the table and of its ``others`` are missing, in words; empty where none is."""
    missing, all_of_them = (sum(of) for of in zip(*(one.missing for one in (group, *group.others)), strict=True))
    return f"{missing} of {all_of_them} numbers are not evaluated, or not for all seeds" if missing else ""


def _opening(group: Group, drawn: Drawn) -> list[Block]:
    note = published_note(group.dataset, group.model, group.protocol, group.deviations)
    return [
        _answer(group, drawn, "Accuracies"),
        *_caption(group),
        *([Text(note)] if note else []),
        _counts_note(drawn),
        *_counts(group, drawn),
        *blocks.grid_blocks(tables.seeds_grid(group), fold=True),
    ]


def _other(group: Group, drawn: Drawn) -> list[Block]:
    return [
        _answer(group, drawn, kind_title(group.kind)),
        *_caption(group),
        *_counts(group, drawn),
        *blocks.grid_blocks(tables.seeds_grid(group), fold=True),
        *blocks.figures([*drawn.levels, *drawn.maps]),
        *blocks.titled_grid(beyond_grid(group)),
    ]


def _caption(group: Group) -> list[Block]:
    """What the table's numbers are, a line for each thing, and where its rows are described."""
    clean = ["Clean: accuracy at the levels that leave an image as it is."] if _with_clean(group) else []
    return [*map(Text, [*tables.caption_lines(group), *clean]), Text((Mark("What the rows are", "#rows"),))]


def _with_clean(group: Group) -> bool:
    """Whether some row was evaluated at a level that leaves images as they are."""
    return any(row.clean.by_seed for row in group.rows)


def _counts(group: Group, drawn: Drawn) -> list[Block]:
    block = counts_block(drawn.table, group, drawn.counts) if drawn.counts is not None else None
    return [block] if block else []


def _counts_note(drawn: Drawn) -> Text:
    if drawn.counts is not None:
        return Text("Click on a number to see what was counted for it.", "note scripted")
    what = "counts behind these numbers" if drawn.levels else "counts behind these numbers and for figures of them"
    return Text(f"This page has no room for the {what}; the store's results.parquet has all counts.")


def _answer(group: Group, drawn: Drawn, label: str) -> Table:
    rows: list[Sequence[object]] = []
    roles: dict[int, str] = {}
    with_clean = _with_clean(group)
    first_expert = next((row for row in group.rows if row.is_expert), None)
    for i, row in enumerate(group.rows):
        ours = "ours" if row in group.ours else ""
        roles[len(rows)] = " ".join(["first-expert" if row is first_expert else ours] + ["always"] * bool(row.always))
        numbers = (_number(entry, group, drawn, i, j) for j, entry in enumerate(tables.answer_row(group, row)))
        clean = [tables.cell_text(row.clean, len(group.seeds))] if with_clean else []
        rows.append(((row.about.name, ", ".join(beside(row))), *numbers, *clean))
        if published := tables.published_row(group, row):
            roles[len(rows)] = f"published {ours}".strip()
            rows.append((f"published, {NETWORK}", *published, *([("", "")] if with_clean else [])))
    heading = ["", *(tables.column_title(group, column) for column in group.columns)]
    role = "answer many" if len(group.columns) > blocks.WIDE else "answer"
    if with_clean:
        heading.append("Clean")
        role += " with-clean"
    return Table(label, heading, rows, role, roles={i: role for i, role in roles.items() if role})


def _number(entry: Entry, group: Group, drawn: Drawn, row: int, column: int) -> Entry | Number:
    """A cell that links to the counts behind its number, where the page has them."""
    names = group.degradations[column : column + 1] or group.degradations
    if not any((group.rows[row].method, name) in (drawn.counts or {}) for name in names):
        return entry
    last = column == len(group.degradations)
    return Number(*entry, f"#{anchor(drawn.table, row, None if last else column)}", drawn.table, row, column)


def _believed(group: Group) -> list[Block]:
    """The paired tests: sentences about our rows, then all pairs, which open on demand."""
    grid = comparison_grid(group)
    if grid is None or not grid.rows:
        return blocks.grid_blocks(grid)
    said = [Text(line, "said") for line in short_lines(group)]
    every = counted(len(grid.rows), "pair")
    return [*said, Folded(every if len(grid.rows) == 1 else f"All {every}", [blocks.grid_table(grid), Text(grid.note)])]
