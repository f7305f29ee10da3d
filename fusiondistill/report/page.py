"""The page: everything that there is to say about the results in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template

from fusiondistill.report.beyond import beyond_grid
from fusiondistill.report.comparing import comparison_grid, short_lines
from fusiondistill.report.figures import Picture
from fusiondistill.report.grid import Grid
from fusiondistill.report.groups import Group
from fusiondistill.report.markup import Markup, element, folded, heading, joined, scroll
from fusiondistill.report.published import NETWORK
from fusiondistill.report.sections import figures
from fusiondistill.report.summary import headline
from fusiondistill.report.tables import (
    NOTHING,
    answer_row,
    caption,
    column_title,
    group_title,
    overview_grid,
    published_row,
    seeds_grid,
)
from fusiondistill.report.words import (
    TOLD,
    in_order,
    kind_title,
    method_line,
    method_title,
    printable,
    protocol_lines,
    published_note,
)

__all__ = ["between_section", "facts_section", "group_section", "page"]

_FEW = 20  # rows of a table that is shown without being asked for


def page(groups: Sequence[Group], sections: Sequence[Markup], end: Markup | None = None) -> str:
    """The whole HTML file: the sections, then what the rows and protocols are, then the end."""
    names = list(dict.fromkeys(printable(group.experiment) for group in groups))
    template = Template(resources.files("fusiondistill.report").joinpath("page.html").read_text(encoding="utf-8"))
    sentences = [sentence for group in groups if (sentence := headline(group))]
    lead = [element("p", sentence, class_="lead") for sentence in sentences if len(groups) == 1]
    if not groups:
        lead.append(element("p", NOTHING, class_="lead"))
    title = joined(f"FusionDistill: {', '.join(names)}" if names else "FusionDistill")
    explained = [_rows_explained(groups), _protocols_explained(groups)] if groups else []
    overview = overview_grid(groups)
    opening = [_overview(overview)] if overview else []
    main = [*opening, *sections, *explained, *([end] if end else [])]
    return template.substitute(title=title, lead=joined(*lead), main="\n".join(main))


def group_section(group: Group, number: int, pictures: Mapping[str, Sequence[Picture]], several: bool) -> Markup:
    """A group's tables and figures (by kind of degradation); with several groups each has its own sentence."""
    note = published_note(group.dataset, group.model, group.protocol)
    sentence = headline(group) if several else None
    parts = [
        element("h2", group_title(group), id=f"table-{number}"),
        element("p", sentence) if sentence else Markup(""),
        scroll(_answer(group), "Accuracies"),
        element("p", caption(group), " ", element("a", "What the rows are", href="#rows"), class_="note"),
        element("p", note, class_="note") if note else Markup(""),
        _grid(seeds_grid(group), fold=True),
        _comparisons(group),
        _grid(beyond_grid(group)),
        figures("Accuracy against level", pictures.get(group.kind, ())),
    ]
    for other in group.others:
        title = kind_title(other.kind)
        parts += [
            element("h3", title),
            scroll(_answer(other), title),
            element("p", caption(other), class_="note"),
            _grid(seeds_grid(other), fold=True),
            _grid(beyond_grid(other)),
            figures("", pictures.get(other.kind, ())),
        ]
    return element("section", *parts)


def between_section(grid: Grid) -> Markup:
    """The tests between the points of a sweep; many pairs open on demand."""
    table = scroll(_rows(grid, []), grid.title)
    shown = folded(f"All {len(grid.rows)} pairs", table) if len(grid.rows) > _FEW else table
    return element("section", element("h2", grid.title), shown, element("p", grid.note, class_="note"))


def facts_section(facts: Mapping[str, str]) -> Markup:
    """What it takes to run this again; long values and those of several lines are kept as they are."""
    items = []
    for name, value in facts.items():
        long = "\n" in str(value) or len(str(value)) > 100 or name in ("command", "config")
        shown = element("pre", str(value).strip("\n"), tabindex="0") if long else value
        items.append(joined(element("dt", name.replace("_", " ")), element("dd", shown)))
    return element("section", element("h2", "How it was run"), element("dl", *items, style="max-width: none"))


def _answer(group: Group) -> Markup:
    head = element("tr", element("td"), *(heading(column_title(group, column)) for column in group.columns))
    first_expert = next((row for row in group.rows if row.is_expert), None)
    body = []
    for row in group.rows:
        ours = "ours" if row.method.startswith("fusiondistill") else None
        kind = "first-expert" if row is first_expert else ours
        told = element("small", "told the degradation") if row.method in TOLD else Markup("")
        name = element("th", method_title(row.method), told, scope="row")
        body.append(element("tr", name, *(_entry(*entry) for entry in answer_row(group, row)), class_=kind))
        if published := published_row(group, row):
            name = element("th", f"published, {NETWORK}", scope="row")
            below = f"published {ours or ''}".strip()
            body.append(element("tr", name, *(_entry(*entry) for entry in published), class_=below))
    return element("table", element("thead", head), element("tbody", *body), class_="answer")


def _comparisons(group: Group) -> Markup:
    """The paired tests: what they say of our rows, then all pairs, which open on demand."""
    grid = comparison_grid(group)
    if grid is None or not grid.rows:
        return _grid(grid)
    said = [element("p", line, class_="said") for line in short_lines(group)]
    table = folded(f"All {len(grid.rows)} pairs", scroll(_rows(grid, []), grid.title))
    return joined(element("h3", grid.title), *said, table, element("p", grid.note, class_="note"))


def _grid(grid: Grid | None, *, fold: bool = False) -> Markup:
    """A table with its heading and note; a long one, or one that is to be folded, opens on demand."""
    if grid is None:
        return Markup("")
    note = element("p", grid.note, class_="note") if grid.note else Markup("")
    if not grid.rows:
        return joined(element("h3", grid.title), note)
    table = scroll(_rows(grid, []), grid.title)
    if fold:
        return folded(grid.title, joined(table, note))
    long = folded(f"All {len(grid.rows)} rows", table) if len(grid.rows) > _FEW else table
    return joined(element("h3", grid.title), long, note)


def _overview(grid: Grid) -> Markup:
    """The overview; each row leads to its table."""
    links = [f"#table-{i + 1}" for i in range(len(grid.rows))]
    table = scroll(_rows(grid, links), grid.title)
    return element("section", element("h2", grid.title), table, element("p", grid.note, class_="note"))


def _rows(grid: Grid, links: Sequence[str]) -> Markup:
    head = element("tr", *(heading(title) if title else element("td") for title in grid.heading))
    body = []
    for i, ((name, _), *entries) in enumerate(grid.rows):
        first = element("a", name, href=links[i]) if links else name
        body.append(element("tr", element("th", first, scope="row"), *(_entry(*entry) for entry in entries)))
    return element("table", element("thead", head), element("tbody", *body), class_=f"grid text-{grid.texts}")


def _entry(number: str, beside: str) -> Markup:
    return element("td", number, element("small", beside) if beside else Markup(""))


def _rows_explained(groups: Sequence[Group]) -> Markup:
    methods = in_order(row.method for group in groups for row in group.rows)
    items = [joined(element("dt", method_title(m)), element("dd", method_line(m))) for m in methods]
    return element("section", element("h2", "What the rows are", id="rows"), element("dl", *items))


def _protocols_explained(groups: Sequence[Group]) -> Markup:
    parts = []
    for protocol in dict.fromkeys(group.protocol for group in groups):
        lines = protocol_lines(protocol) or ("A protocol that this report knows nothing about.",)
        parts += [element("h3", protocol), element("ul", *(element("li", line) for line in lines))]
    title = "Protocols" if len(parts) > 2 else "Protocol"
    return element("section", element("h2", title), *parts)
