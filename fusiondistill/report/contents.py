"""All sections of the page in the order in which a reader asks, and the figures that go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusiondistill.report import page, sections
from fusiondistill.report.behind import counts_behind, embedded
from fusiondistill.report.between import between_grids
from fusiondistill.report.examples import examples_body
from fusiondistill.report.figures import Picture, Pictures
from fusiondistill.report.group_figures import level_pictures, map_pictures
from fusiondistill.report.group_parts import Drawn, group_section, group_sections
from fusiondistill.report.groups import Group
from fusiondistill.report.markup import Markup, Section, element, joined
from fusiondistill.report.stage_figures import curve_pictures, surface_pictures, trial_pictures
from fusiondistill.report.time_section import time_body
from fusiondistill.report.unfinished import unfinished_line, unfinished_section, without_curves

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Contents", "contents"]

DRAWN = 12  # tables, and experiments, of which figures are drawn

Tables = Mapping[str, "pa.Table | None"]


@dataclass
class Contents:
    """The page's sections, its figures, and the markup that its script reads."""

    sections: list[Section] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    data: str = ""
    news: Markup = field(default_factory=Markup)


def contents(groups: Sequence[Group], results: pa.Table, tables: Tables) -> Contents:
    """The sections of the groups, then those of examples, training, search, fusion and time by experiment.

    ``tables`` are those of :func:`fusiondistill.report.write` by name.
    """
    found, draw = Contents(), Pictures()
    for i, grid in enumerate(between_grids(tables.get("comparisons"))):
        found.sections.append(page.between_section(grid, i + 1))
    _add_groups(found, groups, results, draw)
    found.news = unfinished_line(tables.get("unfinished"))
    if section := unfinished_section(tables.get("unfinished")):
        found.sections.append(section)

    def of(table: str, experiment: str) -> pa.Table | None:
        return _part(tables.get(table), experiment)

    shown = min(DRAWN, sum(1 for _ in _by_experiment(tables.get("samples"))))
    kinds: list[tuple[str, str, str, Callable[[str, pa.Table, bool], tuple[Markup, Sequence[Picture]]]]] = [
        ("examples", "Examples", "samples", lambda name, part, drawn: (
            examples_body(part, of("answers", name), shown) if drawn else Markup(""), ())),
        ("training", "Training", "curves", lambda name, part, drawn: _training(
            draw, part if drawn else None, of("unfinished", name))),
        ("search", "Search", "trials", lambda name, part, drawn: _search(draw, part, of("importance", name), drawn)),
        ("fusion", "Fusion", "fusion", lambda name, part, drawn: _fusion(
            draw, part, of("surface", name) if drawn else None)),
        ("time", "Time", "timeline", lambda _, part, drawn: time_body(part, draw, drawn)),
    ]  # fmt: skip
    for anchor, title, table, build in kinds:
        _add_experiments(found, anchor, title, tables.get(table), build)
    return found


def _training(draw: Pictures, curves: pa.Table | None, unfinished: pa.Table | None) -> tuple[Markup, Sequence[Picture]]:
    pictures = [*curve_pictures(draw, curves)] if curves is not None else []
    return sections.curves_body(pictures, without_curves(unfinished)), pictures


def _search(
    draw: Pictures, trials: pa.Table, importance: pa.Table | None, drawn: bool
) -> tuple[Markup, Sequence[Picture]]:
    pictures = [*trial_pictures(draw, trials)] if drawn else []
    return sections.trials_body(trials, pictures, importance), pictures


def _fusion(draw: Pictures, fusion: pa.Table, surface: pa.Table | None) -> tuple[Markup, Sequence[Picture]]:
    pictures = [*surface_pictures(draw, surface)] if surface is not None else []
    return sections.fusion_body(fusion, pictures), pictures


def _add_groups(found: Contents, groups: Sequence[Group], results: pa.Table, draw: Pictures) -> None:
    """A section for each table; where there are several, each in one section, and figures for the first of them."""
    several = len(groups) > 1
    behind = counts_behind(results) if groups else {}
    named: list[list[tuple[str, Group]]] = []
    for i, group in enumerate(groups):
        others = [(f"{i + 1}-{k + 2}", other) for k, other in enumerate(group.others)]
        named.append([(str(i + 1), group), *others])
    flat = [(table, one, behind.get(_key(one), {})) for tables in named[:DRAWN] for table, one in tables]
    found.data, held = embedded(flat)
    kept = {table: counted for table, _, counted in flat[:held]}
    for i, tables in enumerate(named):
        drawn = []
        for k, (table, one) in enumerate(tables):
            shown = i < DRAWN and not (several and k)
            prefix = f"{i + 1}-" if several else ""
            levels = [*level_pictures(draw, one, prefix)] if shown else []
            maps = [*map_pictures(draw, one, prefix)] if shown else []
            found.pictures += [*levels, *maps]
            drawn.append(Drawn(table, levels, maps, kept.get(table)))
        found.sections += [group_section(groups[i], drawn)] if several else group_sections(groups[i], drawn)


def _key(group: Group) -> tuple[str, ...]:
    return group.experiment, group.dataset, group.model, group.protocol


def _add_experiments(
    found: Contents,
    anchor: str,
    title: str,
    table: pa.Table | None,
    build: Callable[[str, pa.Table, bool], tuple[Markup, Sequence[Picture]]],
) -> None:
    """One section for a kind of table, with a part for each experiment; figures for the first of them."""
    parts = []
    experiments = list(_by_experiment(table))
    for i, (name, part) in enumerate(experiments):
        body, pictures = build(name, part, i < DRAWN)
        found.pictures += pictures
        if body:
            parts += [element("h3", name)] if len(experiments) > 1 else []
            parts.append(body)
    if len(experiments) > 1 and anchor != "examples":
        text = "A stage that several experiments share stands under the first of them alone."
        parts.insert(0, element("p", text, class_="note"))
    if len(experiments) > DRAWN:
        text = f"Figures and pictures are those of the first {DRAWN} of {len(experiments)} experiments."
        parts.insert(0, element("p", text, class_="note"))
    if parts:
        found.sections.append(Section(anchor, title, joined(*parts)))


def _part(table: pa.Table | None, experiment: str) -> pa.Table | None:
    """The rows of an experiment; all of them where either side does not say whose they are."""
    import pyarrow.compute as compute

    if table is None or not experiment or "experiment" not in table.column_names:
        return table
    return table.filter(compute.equal(table["experiment"], experiment))


def _by_experiment(table: pa.Table | None) -> Iterator[tuple[str, pa.Table]]:
    """The table's experiments with their rows; a table without that column goes by the name of ""."""
    import pyarrow.compute as compute

    if table is None or not table.num_rows:
        return
    if "experiment" not in table.column_names:
        yield "", table
        return
    for name in table["experiment"].unique().to_pylist():
        yield name, table.filter(compute.equal(table["experiment"], name))
