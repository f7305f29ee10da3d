"""What the page says of one table of results, part by part: the answer, why to believe it, how it behaves per level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusiondistill.report.behind import Behind, anchor, fallback
from fusiondistill.report.beyond import beyond_grid
from fusiondistill.report.comparing import comparison_grid, short_lines
from fusiondistill.report.figures import Picture
from fusiondistill.report.grid import Entry, Grid
from fusiondistill.report.groups import Group
from fusiondistill.report.markup import Markup, Section, element, folded, heading, joined, prose, scroll
from fusiondistill.report.published import NETWORK
from fusiondistill.report.sections import figures
from fusiondistill.report.summary import headline
from fusiondistill.report.tables import answer_row, caption, column_title, group_title, published_row, seeds_grid
from fusiondistill.report.words import TOLD, kind_title, method_title, printable, protocol_line, published_note

__all__ = ["Drawn", "grid_table", "group_section", "group_sections", "setup"]

_WIDE = 9  # columns that fit on paper side by side
_FEW = 20  # rows of a table that is shown without being asked for


@dataclass(frozen=True)
class Drawn:
    """What belongs to one table: its name in ids, its figures, its counts (None: the page has no room for them)."""

    table: str
    levels: Sequence[Picture] = ()
    maps: Sequence[Picture] = ()
    behind: Behind | None = None


def group_sections(group: Group, drawn: Sequence[Drawn]) -> list[Section]:
    """The sections of the only table of a page; ``drawn``: of the group itself, then of each of its ``others``."""
    own = drawn[0]
    found = [
        Section(f"table-{own.table}", "The answer", _opening(group, own)),
        Section("established", "Which differences are established", _believed(group)),
        Section("levels", "Accuracy against level", figures("", own.levels)),
        Section("maps", "Gains and costs", joined(figures("", own.maps), _grid(beyond_grid(group)))),
    ]
    for other, of in zip(group.others, drawn[1:], strict=True):
        found.append(Section(f"table-{of.table}", kind_title(other.kind), _other(other, of)))
    return [section for section in found if section.body]


def group_section(group: Group, drawn: Sequence[Drawn]) -> Section:
    """One of several tables of a page: the same in a section of its own."""
    own = drawn[0]
    sentence = headline(group)
    parts = [
        element("p", prose(sentence)) if sentence else Markup(""),
        setup(group),
        _opening(group, own),
        _titled("Which differences are established", _believed(group)),
        _titled("Accuracy against level", figures("", own.levels)),
        _titled("Gains and costs", joined(figures("", own.maps), _grid(beyond_grid(group)))),
    ]
    for other, of in zip(group.others, drawn[1:], strict=True):
        parts.append(_titled(kind_title(other.kind), _other(other, of)))
    return Section(f"table-{own.table}", group_title(group), joined(*parts))


def setup(group: Group) -> Markup:
    """What was trained on what, by which protocol, in a few lines."""
    seeds = ", ".join(map(str, group.seeds)) or "none evaluated yet"
    images = max(group.images.values(), default=0)
    items = {
        "Data": printable(group.dataset) + (f", {images:,} test images" if images else ""),
        "Network": printable(group.model),
        "Seeds": seeds,
        "Protocol": joined(element("b", group.protocol), f": {protocol_line(group.protocol, group.select)} ",
                           element("a", "More", href="#protocol")),
    }  # fmt: skip
    if group.training:
        items["Training"] = printable(group.training)
    if missing := _missing(group):
        items["Missing"] = missing
    shown = [joined(element("dt", name), element("dd", value)) for name, value in items.items()]
    return element("dl", *shown, class_="setup")


def _missing(group: Group) -> str:
    """How many numbers of the table and of those below it are still to come, in words; empty where none is."""
    missing, all_of_them = (sum(of) for of in zip(*(one.missing for one in (group, *group.others)), strict=True))
    return f"{missing} of {all_of_them} numbers are not evaluated, or not for all seeds" if missing else ""


def _titled(title: str, body: Markup) -> Markup:
    return joined(element("h3", title), body) if body else Markup("")


def _opening(group: Group, drawn: Drawn) -> Markup:
    note = published_note(group.dataset, group.model, group.protocol, group.deviations)
    return joined(
        scroll(_answer(group, drawn), "Accuracies"),
        element("p", caption(group), " ", element("a", "What the rows are", href="#rows"), class_="note"),
        element("p", note, class_="note") if note else Markup(""),
        _behind_note(drawn),
        fallback(drawn.table, group, drawn.behind) if drawn.behind is not None else Markup(""),
        _grid(seeds_grid(group), fold=True),
    )


def _behind_note(drawn: Drawn) -> Markup:
    if drawn.behind is not None:
        return element("p", "Click on a number to see what was counted for it.", class_="note scripted")
    what = "counts behind these numbers" if drawn.levels else "counts behind these numbers and for figures of them"
    text = f"This page has no room for the {what}; the store's results.parquet has all counts."
    return element("p", text, class_="note")


def _other(group: Group, drawn: Drawn) -> Markup:
    return joined(
        scroll(_answer(group, drawn), kind_title(group.kind)),
        element("p", caption(group), class_="note"),
        fallback(drawn.table, group, drawn.behind) if drawn.behind is not None else Markup(""),
        _grid(seeds_grid(group), fold=True),
        figures("", [*drawn.levels, *drawn.maps]),
        _grid(beyond_grid(group)),
    )


def _answer(group: Group, drawn: Drawn) -> Markup:
    head = element("tr", element("td"), *(heading(column_title(group, column)) for column in group.columns))
    first_expert = next((row for row in group.rows if row.is_expert), None)
    body = []
    for i, row in enumerate(group.rows):
        ours = "ours" if row.method.startswith("fusiondistill") else None
        kind = "first-expert" if row is first_expert else ours
        told = element("small", "told the degradation") if row.method in TOLD else Markup("")
        name = element("th", method_title(row.method), told, scope="row")
        numbers = [_number(entry, group, drawn, i, j) for j, entry in enumerate(answer_row(group, row))]
        body.append(element("tr", name, *numbers, class_=kind))
        if published := published_row(group, row):
            name = element("th", f"published, {NETWORK}", scope="row")
            below = f"published {ours or ''}".strip()
            body.append(element("tr", name, *(_entry(*entry) for entry in published), class_=below))
    kind = "answer many" if len(group.columns) > _WIDE else "answer"
    return element("table", element("thead", head), element("tbody", *body), class_=kind)


def _number(entry: Entry, group: Group, drawn: Drawn, row: int, column: int) -> Markup:
    """A cell that leads to the counts behind its number, where there are any on this page."""
    number, beside = entry
    counted = drawn.behind or {}
    method = group.rows[row].method
    names = group.degradations[column : column + 1] or group.degradations
    if not any((method, name) in counted for name in names):
        return _entry(number, beside)
    last = column == len(group.degradations)
    link = element(
        "a", number, href=f"#{anchor(drawn.table, row, None if last else column)}", class_="number",
        data_table=drawn.table, data_row=row, data_column=column,
    )  # fmt: skip
    return element("td", link, element("small", beside) if beside else Markup(""))


def _believed(group: Group) -> Markup:
    """The paired tests: what they say of our rows, then all pairs, which open on demand."""
    grid = comparison_grid(group)
    if grid is None:
        return Markup("")
    note = element("p", grid.note, class_="note")
    if not grid.rows:
        return note
    said = [element("p", line, class_="said") for line in short_lines(group)]
    return joined(*said, folded(f"All {len(grid.rows)} pairs", joined(grid_table(grid), note)))


def _grid(grid: Grid | None, *, fold: bool = False) -> Markup:
    """A table with its heading and note; a long one, or one that is to be folded, opens on demand."""
    if grid is None:
        return Markup("")
    note = element("p", grid.note, class_="note") if grid.note else Markup("")
    if not grid.rows:
        return joined(element("h3", grid.title), note)
    table = grid_table(grid)
    if fold:
        return folded(grid.title, joined(table, note))
    long = folded(f"All {len(grid.rows)} rows", table) if len(grid.rows) > _FEW else table
    return joined(element("h3", grid.title), long, note)


def grid_table(grid: Grid, links: Sequence[str] = ()) -> Markup:
    """A grid in its scrolling box; a long one can be sorted and filtered. ``links``: where each row's name leads."""
    head = element("tr", *(heading(title) if title else element("td") for title in grid.heading))
    body = []
    for i, ((name, _), *entries) in enumerate(grid.rows):
        first = element("a", name, href=links[i]) if links else name
        body.append(element("tr", element("th", first, scope="row"), *(_entry(*entry) for entry in entries)))
    kind = f"grid text-{grid.texts}" + (" sortable" if len(grid.rows) > 5 else "")
    kind += " many" if len(grid.heading) > _WIDE else ""
    return scroll(element("table", element("thead", head), element("tbody", *body), class_=kind), grid.title)


def _entry(number: str, beside: str) -> Markup:
    return element("td", number, element("small", beside) if beside else Markup(""))
