"""The page: everything that there is to say about the results in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from fusiondistill.report.answer_section import setup
from fusiondistill.report.blocks import Block, Bullets, Folded, Section, Terms, Text, grid_table, named
from fusiondistill.report.drawing import inlined
from fusiondistill.report.figures import Picture
from fusiondistill.report.groups import Group
from fusiondistill.report.tables import NOTHING, headline, overview_grid
from fusiondistill.report.text import explained
from fusiondistill.report.words import MISSING, printable, protocol_lines

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["MADE", "facts_section", "page", "shown"]

MADE = "Written by fusiondistill report."
"""Stands at the end of every page, by which a page of this report is known."""
_TITLE = "FusionDistill"
_FEW = 20  # lines of a fact that are shown without being asked for


def page(
    groups: Sequence[Group],
    sections: Sequence[Section],
    *,
    end: Section | None = None,
    counts: str = "{}",
    news: Sequence[Block] = (),
) -> str:
    """The whole HTML file: the answer and the other sections, then what the rows and protocols are, then the end.

    Args:
        counts: JSON that the page's script reads; safe within a script element.
        news: what is to be said before anything else.
    """
    names = list(dict.fromkeys(printable(group.experiment) for group in groups))
    opening = [_overview(groups)] if len(groups) > 1 else []
    about = [Section("rows", "What the rows are", [Terms(explained(groups))]), _protocols(groups)] if groups else []
    every = [*opening, *sections, *about, *([end] if end else [])]
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=_title(names),
            lead=[*news, *_lead(groups)],
            contents=_contents(groups, every),
            sections=every,
            counts=counts,
            made=MADE,
        )
    )


def shown(blocks: Sequence[Block]) -> str:
    """These blocks as HTML."""
    module: Any = _templates().get_template("blocks.html").module
    return str(module.blocks(blocks))


@cache
def _templates() -> Environment:
    """The templates. All text is escaped, and rid of control characters, on its way into them."""
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup, escape

    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) else printable(value, lines=True)

    def breakable(title: object) -> Markup:
        """A line may break after a plus, as in "Salt+pepper", and nowhere else in a word."""
        return Markup(str(escape(printable(title))).replace("+", "+<wbr>"))

    def prose(text: object) -> Markup:
        """Percent signs stay with their numbers."""
        return Markup(str(escape(printable(text))).replace(" %", "&nbsp;%"))

    def drawn(picture: Picture) -> Markup:
        return Markup(inlined(picture.svg, f"{picture.name}-", picture.alt))

    loader = PackageLoader("fusiondistill.report")
    env = Environment(loader=loader, autoescape=True, finalize=finalize)

    def source(name: str) -> Markup:
        return Markup(loader.get_source(env, name)[0])

    env.filters.update(breakable=breakable, prose=prose, drawn=drawn, shape=lambda block: type(block).__name__)
    env.globals.update(source=source, missing=MISSING)
    return env


def _title(names: Sequence[str]) -> str:
    if not names:
        return _TITLE
    few = ", ".join(names[:3])
    return f"{_TITLE}: {few}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _lead(groups: Sequence[Group]) -> list[Block]:
    """The answer in a sentence, and what was trained on what."""
    if not groups:
        return [Text(NOTHING, "lead")]
    if len(groups) > 1:
        return [Text(f"{len(groups)} tables; the overview leads to each of them.", "lead")]
    sentence = headline(groups[0])
    return [*([Text(sentence, "lead")] if sentence else []), setup(groups[0])]


def _contents(groups: Sequence[Group], sections: Sequence[Section]) -> Sequence[Section]:
    """Where to find what; of many tables the overview alone."""
    tables = {section.anchor for section in sections if section.anchor.startswith("table-")}
    found = [s for s in sections if len(groups) < 2 or len(tables) < 6 or s.anchor not in tables]
    return found if len(found) >= 4 else ()


def facts_section(facts: Mapping[str, str]) -> Section:
    """What it takes to run this again; what has several lines is kept as it is; many open on demand."""
    items: list[tuple[str, Any]] = []
    for name, value in facts.items():
        text = str(value).strip("\n")
        lines, code = text.count("\n") + 1, Text(text, "", "pre")
        kept = lines > 1 or name.split(": ")[-1] in ("command", "config")
        items.append((name, Folded(f"{lines} lines", [code]) if lines > _FEW else code if kept else text))
    return Section("again", "How it was run", [Terms(items, "wide")])


def _overview(groups: Sequence[Group]) -> Section:
    """A row for each table, which it leads to."""
    grid = overview_grid(groups)
    assert grid is not None
    links = [f"#table-{i + 1}" for i in range(len(grid.rows))]
    return Section("overview", grid.title, [grid_table(grid, links), Text(grid.note)])


def _protocols(groups: Sequence[Group]) -> Section:
    blocks: list[Block] = []
    for protocol, select in dict.fromkeys((group.protocol, group.select) for group in groups):
        lines = protocol_lines(protocol, select) or ("A protocol that this report knows nothing about.",)
        blocks += named(protocol, [Bullets(lines)])
    return Section("protocol", "Protocols" if len(blocks) > 2 else "Protocol", blocks)
