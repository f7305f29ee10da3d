"""The page: everything that there is to say about the results in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template

from fusiondistill.report.grid import Grid
from fusiondistill.report.group_parts import grid_table, setup
from fusiondistill.report.groups import Group
from fusiondistill.report.markup import Markup, Section, element, folded, joined, prose
from fusiondistill.report.summary import headline
from fusiondistill.report.tables import NOTHING, overview_grid
from fusiondistill.report.words import in_order, method_line, method_title, printable, protocol_lines

__all__ = ["between_section", "facts_section", "page"]

_FEW = 20  # rows of a table that is shown without being asked for


def page(
    groups: Sequence[Group],
    sections: Sequence[Section],
    *,
    end: Section | None = None,
    data: str = "",
    news: Markup | None = None,
) -> str:
    """The whole HTML file: the answer and the other sections, then what the rows and protocols are, then the end.

    ``data`` is markup that the page's script reads, ``news`` what is to be said before anything else.
    """
    names = list(dict.fromkeys(printable(group.experiment) for group in groups))
    opening = [_overview(groups)] if len(groups) > 1 else []
    explained = [_rows_explained(groups), _protocols_explained(groups)] if groups else []
    shown = [*opening, *sections, *explained, *([end] if end else [])]
    lead = [news or Markup(""), _lead(groups), _contents(groups, shown)]
    folder = resources.files("fusiondistill.report")
    read = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")}
    return Template(read["page.html"]).substitute(
        title=joined(_title(names)),
        style=read["page.css"],
        script=read["page.js"],
        lead=joined(*lead),
        main="\n".join(section.shown() for section in shown),
        data=data,
    )


def _title(names: Sequence[str]) -> str:
    if not names:
        return "FusionDistill"
    few = ", ".join(names[:3])
    return f"FusionDistill: {few}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _lead(groups: Sequence[Group]) -> Markup:
    """The answer in a sentence, and what was trained on what."""
    if not groups:
        return element("p", NOTHING, class_="lead")
    if len(groups) > 1:
        return element("p", f"{len(groups)} tables; the overview leads to each of them.", class_="lead")
    sentence = headline(groups[0])
    return joined(element("p", prose(sentence), class_="lead") if sentence else Markup(""), setup(groups[0]))


def _contents(groups: Sequence[Group], sections: Sequence[Section]) -> Markup:
    """Where to find what; of many tables the overview alone."""
    tables = {section.anchor for section in sections if section.anchor.startswith("table-")}
    shown = [s for s in sections if len(groups) < 2 or len(tables) < 6 or s.anchor not in tables]
    if len(shown) < 4:
        return Markup("")
    items = (element("li", element("a", section.title, href=f"#{section.anchor}")) for section in shown)
    return element("nav", element("ul", *items), aria_label="Contents")


def between_section(grid: Grid, number: int) -> Section:
    """The tests between the points of a sweep; many pairs open on demand."""
    table = grid_table(grid)
    shown = folded(f"All {len(grid.rows)} pairs", table) if len(grid.rows) > _FEW else table
    return Section(f"between-{number}", grid.title, joined(shown, element("p", grid.note, class_="note")))


def facts_section(facts: Mapping[str, str]) -> Section:
    """What it takes to run this again; what has several lines is kept as it is; many open on demand."""
    items = []
    for name, value in facts.items():
        text = str(value).strip("\n")
        code = "\n" in text or name.split(": ")[-1] in ("command", "config")
        shown = element("pre", text) if code else joined(text)
        lines = text.count("\n") + 1
        shown = folded(f"{lines} lines", shown) if lines > _FEW else shown
        items.append(joined(element("dt", name), element("dd", shown)))
    return Section("again", "How it was run", element("dl", *items, class_="wide"))


def _overview(groups: Sequence[Group]) -> Section:
    """A row for each table, which it leads to."""
    grid = overview_grid(groups)
    assert grid is not None
    links = [f"#table-{i + 1}" for i in range(len(grid.rows))]
    return Section("overview", grid.title, joined(grid_table(grid, links), element("p", grid.note, class_="note")))


def _rows_explained(groups: Sequence[Group]) -> Section:
    methods = in_order(row.method for group in groups for row in group.rows)
    items = [joined(element("dt", method_title(m)), element("dd", method_line(m))) for m in methods]
    return Section("rows", "What the rows are", element("dl", *items))


def _protocols_explained(groups: Sequence[Group]) -> Section:
    parts: list[Markup] = []
    for protocol, select in dict.fromkeys((group.protocol, group.select) for group in groups):
        lines = protocol_lines(protocol, select) or ("A protocol that this report knows nothing about.",)
        parts += [element("h3", protocol), element("ul", *(element("li", line) for line in lines))]
    return Section("protocol", "Protocols" if len(parts) > 2 else "Protocol", joined(*parts))
