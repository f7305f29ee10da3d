"""The page: all results in one HTML file that needs no other file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from fusiondistill.report import stage_sections as stages
from fusiondistill.report.answer_section import Drawn, group_section, group_sections, setup
from fusiondistill.report.blocks import (
    Block,
    Bullets,
    Figures,
    Folded,
    Section,
    Terms,
    Text,
    grid_blocks,
    grid_table,
    named,
)
from fusiondistill.report.class_section import class_blocks
from fusiondistill.report.comparisons import sweep_grids
from fusiondistill.report.costs import cost_grid
from fusiondistill.report.counts import counts_of, embedded
from fusiondistill.report.drawing import inlined
from fusiondistill.report.examples import examples_blocks
from fusiondistill.report.figures import Picture, Pictures
from fusiondistill.report.group_figures import level_pictures, map_pictures
from fusiondistill.report.groups import Group
from fusiondistill.report.methods import Methods
from fusiondistill.report.stage_figures import curve_pictures, surface_pictures, trial_pictures
from fusiondistill.report.sweep_figures import sweep_pictures
from fusiondistill.report.tables import NOTHING, headline, overview_grid
from fusiondistill.report.text import explained
from fusiondistill.report.time_section import time_blocks
from fusiondistill.report.words import MISSING, printable, protocol_lines

if TYPE_CHECKING:
    import pyarrow as pa
    from jinja2 import Environment

__all__ = ["MADE", "contents", "facts_section", "page", "shown"]

MADE = "Written by fusiondistill report."
"""The end of every page; by it :func:`fusiondistill.report.write` recognises its own pages."""
_TITLE = "FusionDistill"
_FEW = 20  # lines of a fact that are shown unfolded
_DRAWN = 12  # tables, and experiments, of which figures are drawn

Tables = Mapping[str, "pa.Table | None"]
Built: TypeAlias = "tuple[list[Block], Sequence[Picture]]"
Build: TypeAlias = "Callable[[str, pa.Table, bool], Built]"
"""(experiment, its rows, whether figures are drawn) -> the blocks and the figures in them."""


def page(
    groups: Sequence[Group],
    sections: Sequence[Section],
    *,
    end: Section | None = None,
    counts: str = "{}",
    news: Sequence[Block] = (),
    best: Sequence[Block] = (),
) -> str:
    """The whole HTML file: the answer and the other sections, then what the rows and protocols are, then the end.

    Args:
        counts: JSON that the page's script reads; safe within a script element.
        news: shown before everything else.
        best: which network is the best one, shown first.
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
            lead=[*news, *best, *_lead(groups)],
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
    """The templates. All text that they print is escaped and loses its control characters."""
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup, escape

    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) else printable(value, lines=True)

    def breakable(title: object) -> Markup:
        """A line may break after a plus, as in "Salt+pepper", and nowhere else in a word."""
        return Markup(str(escape(printable(title))).replace("+", "+<wbr>"))

    def prose(text: object) -> Markup:
        """Percent signs and slashes stay with their numbers."""
        return Markup(str(escape(printable(text))).replace(" %", "&nbsp;%").replace(" / ", "&nbsp;/&nbsp;"))

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
    """The answer in a sentence, and the setup."""
    if not groups:
        return [Text(NOTHING, "lead")]
    if len(groups) > 1:
        return [Text(f"{len(groups)} tables; the overview leads to each of them.", "lead")]
    sentence = headline(groups[0])
    return [*([Text(sentence, "lead")] if sentence else []), setup(groups[0])]


def _contents(groups: Sequence[Group], sections: Sequence[Section]) -> Sequence[Section]:
    """The sections for the table of contents; of several tables only the overview."""
    tables = {section.anchor for section in sections if section.anchor.startswith("table-")}
    found = [s for s in sections if len(groups) < 2 or len(tables) < 6 or s.anchor not in tables]
    return found if len(found) >= 4 else ()


def facts_section(facts: Mapping[str, str]) -> Section:
    """The facts that are needed to run this again. Line breaks are kept; long texts open on demand."""
    items: list[tuple[str, Any]] = []
    for name, value in facts.items():
        text = str(value).strip("\n")
        lines, code = text.count("\n") + 1, Text(text, "", "pre")
        kept = lines > 1 or name.split(": ")[-1] in ("command", "config")
        items.append((name, Folded(f"{lines} lines", [code]) if lines > _FEW else code if kept else text))
    return Section("again", "How it was run", [Terms(items, "wide")])


def _overview(groups: Sequence[Group]) -> Section:
    """A row for each table, with a link to it."""
    grid = overview_grid(groups)
    assert grid is not None
    links = [f"#table-{i + 1}" for i in range(len(grid.rows))]
    return Section("overview", grid.title, [grid_table(grid, links), Text(grid.note)])


def _protocols(groups: Sequence[Group]) -> Section:
    blocks: list[Block] = []
    for protocol, select in dict.fromkeys((group.protocol, group.select) for group in groups):
        lines = protocol_lines(protocol, select) or ("A protocol that this report does not know.",)
        blocks += named(protocol, [Bullets(lines)])
    return Section("protocol", "Protocols" if len(blocks) > 2 else "Protocol", blocks)


@dataclass
class Contents:
    """The page's sections, its figures, the JSON that its script reads, and the news."""

    sections: list[Section] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    counts: str = "{}"
    news: Sequence[Block] = ()


def contents(groups: Sequence[Group], results: pa.Table, tables: Tables, methods: Mapping[str, Methods]) -> Contents:
    """The sections of the groups, then those of examples, training, search, fusion and time by experiment.

    Args:
        groups: the tables of results.
        results: their counts.
        tables: those of :func:`fusiondistill.report.write` by name.
        methods: experiment -> its methods, under "" those of all.
    """
    found, draw = Contents(), Pictures()
    for i, grid in enumerate(sweep_grids(tables.get("comparisons"), methods[""])):
        found.sections.append(Section(f"between-{i + 1}", grid.title, grid_blocks(grid, what="pairs")))
    if pictures := [*sweep_pictures(draw, tables.get("axes"), groups)]:
        found.pictures += pictures
        found.sections.append(Section("sweep", "Across the sweep", [Figures(pictures)]))
    _add_groups(found, groups, results, draw, tables.get("costs"))
    found.news = stages.unfinished_line(tables.get("unfinished"))
    if section := stages.unfinished_section(tables.get("unfinished"), methods[""]):
        found.sections.append(section)

    def of(table: str, experiment: str) -> pa.Table | None:
        return _part(tables.get(table), experiment)

    def classes(name: str, part: pa.Table, drawn: bool) -> Built:
        group = next((group for group in groups if group.experiment == name), None)
        given = of("confusions", name), of("mistakes", name), of("judged", name), _count(tables.get("classes"))
        return (class_blocks(group, part, *given) if group else []), ()

    def examples(name: str, part: pa.Table, drawn: bool) -> Built:
        return (examples_blocks(part, of("answers", name), known[name], shown) if drawn else []), ()

    def training(name: str, part: pa.Table, drawn: bool) -> Built:
        pictures = [*curve_pictures(draw, part, known[name])] if drawn else []
        return stages.curves_blocks(pictures, stages.without_curves(of("unfinished", name))), pictures

    def search(name: str, part: pa.Table, drawn: bool) -> Built:
        pictures = [*trial_pictures(draw, part)] if drawn else []
        return stages.trials_blocks(part, pictures, of("importance", name)), pictures

    def fusion(name: str, part: pa.Table, drawn: bool) -> Built:
        ways = of("surface", name) if drawn else None
        pictures = [*surface_pictures(draw, ways, known[name])] if ways is not None else []
        return stages.fusion_blocks(part, pictures), pictures

    def time(name: str, part: pa.Table, drawn: bool) -> Built:
        return time_blocks(part, draw, known[name], drawn)

    known = defaultdict(lambda: methods[""], methods)
    shown = min(_DRAWN, _count(tables.get("samples")))
    kinds = {
        "classes": classes,
        "samples": examples,
        "curves": training,
        "trials": search,
        "fusion": fusion,
        "timeline": time,
    }
    for table, build in kinds.items():
        _add_experiments(found, build.__name__, tables.get(table), build)
    return found


def _add_groups(
    found: Contents, groups: Sequence[Group], results: pa.Table, draw: Pictures, costs: pa.Table | None
) -> None:
    """Add the sections of each table: several for a single table, else one each, with figures for the first tables."""
    several = len(groups) > 1
    counts = counts_of(results) if groups else {}
    named: list[list[tuple[str, Group]]] = []
    for i, group in enumerate(groups):
        others = [(f"{i + 1}-{k + 2}", other) for k, other in enumerate(group.others)]
        named.append([(str(i + 1), group), *others])
    flat = [(table, one, counts.get(_key(one), {})) for tables in named[:_DRAWN] for table, one in tables]
    found.counts, held = embedded(flat)
    kept = {table: counted for table, _, counted in flat[:held]}
    for i, tables in enumerate(named):
        drawn = []
        for k, (table, one) in enumerate(tables):
            shown = i < _DRAWN and not (several and k)
            prefix = f"{i + 1}-" if several else ""
            levels = [*level_pictures(draw, one, prefix)] if shown else []
            maps = [*map_pictures(draw, one, prefix)] if shown else []
            found.pictures += [*levels, *maps]
            drawn.append(Drawn(table, levels, maps, kept.get(table), None if k else cost_grid(one, costs)))
        found.sections += [group_section(groups[i], drawn)] if several else group_sections(groups[i], drawn)


def _key(group: Group) -> tuple[str, ...]:
    return group.experiment, group.dataset, group.model, group.protocol


def _add_experiments(found: Contents, anchor: str, table: pa.Table | None, build: Build) -> None:
    """Add one section for a kind of table, with a part for each experiment, and figures for the first of them."""
    blocks: list[Block] = []
    experiments = list(_by_experiment(table))
    for i, (name, part) in enumerate(experiments):
        built, pictures = build(name, part, i < _DRAWN)
        found.pictures += pictures
        blocks += named(name, built) if len(experiments) > 1 else built
    if len(experiments) > 1 and anchor not in ("classes", "examples"):
        blocks.insert(0, Text("A stage that several experiments share stands under the first of them alone."))
    if len(experiments) > _DRAWN:
        text = f"Figures and pictures are those of the first {_DRAWN} of {len(experiments)} experiments."
        blocks.insert(0, Text(text))
    if blocks:
        found.sections.append(Section(anchor, anchor.capitalize(), blocks))


def _part(table: pa.Table | None, experiment: str) -> pa.Table | None:
    """The rows of an experiment; all rows where the experiment is "" or the table has no such column."""
    import pyarrow.compute as compute

    if table is None or not experiment or "experiment" not in table.column_names:
        return table
    return table.filter(compute.equal(table["experiment"], experiment))


def _count(table: pa.Table | None) -> int:
    """How many experiments a table has."""
    return sum(1 for _ in _by_experiment(table))


def _by_experiment(table: pa.Table | None) -> Iterator[tuple[str, pa.Table]]:
    """The table's experiments with their rows; "" for a table without that column."""
    import pyarrow.compute as compute

    if table is None or not table.num_rows:
        return
    if "experiment" not in table.column_names:
        yield "", table
        return
    for name in table["experiment"].unique().to_pylist():
        yield name, table.filter(compute.equal(table["experiment"], name))
