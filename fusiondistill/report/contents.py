"""All sections of the page in the order in which a reader asks, and the figures that go with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from fusiondistill.report import stage_sections as stages
from fusiondistill.report.answer_section import Drawn, group_section, group_sections
from fusiondistill.report.blocks import Block, Section, Text, grid_blocks, named
from fusiondistill.report.counts import counts_of, embedded
from fusiondistill.report.examples import examples_blocks
from fusiondistill.report.figures import Picture, Pictures
from fusiondistill.report.group_figures import level_pictures, map_pictures
from fusiondistill.report.groups import Group
from fusiondistill.report.methods import Methods
from fusiondistill.report.stage_figures import curve_pictures, surface_pictures, trial_pictures
from fusiondistill.report.sweep_comparisons import sweep_grids
from fusiondistill.report.time_section import time_blocks

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Contents", "contents"]

DRAWN = 12  # tables, and experiments, of which figures are drawn

Tables = Mapping[str, "pa.Table | None"]
Built: TypeAlias = "tuple[list[Block], Sequence[Picture]]"
Build: TypeAlias = "Callable[[str, pa.Table, bool], Built]"
"""(experiment, its rows, whether figures are drawn) -> the blocks and the figures in them."""


@dataclass
class Contents:
    """The page's sections, its figures, the JSON that its script reads, and what is to be said first."""

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
    _add_groups(found, groups, results, draw)
    found.news = stages.unfinished_line(tables.get("unfinished"))
    if section := stages.unfinished_section(tables.get("unfinished"), methods[""]):
        found.sections.append(section)

    def of(table: str, experiment: str) -> pa.Table | None:
        return _part(tables.get(table), experiment)

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
    shown = min(DRAWN, sum(1 for _ in _by_experiment(tables.get("samples"))))
    kinds = {"samples": examples, "curves": training, "trials": search, "fusion": fusion, "timeline": time}
    for table, build in kinds.items():
        _add_experiments(found, build.__name__, tables.get(table), build)
    return found


def _add_groups(found: Contents, groups: Sequence[Group], results: pa.Table, draw: Pictures) -> None:
    """A section for each table; where there are several, each in one section, and figures for the first of them."""
    several = len(groups) > 1
    counts = counts_of(results) if groups else {}
    named: list[list[tuple[str, Group]]] = []
    for i, group in enumerate(groups):
        others = [(f"{i + 1}-{k + 2}", other) for k, other in enumerate(group.others)]
        named.append([(str(i + 1), group), *others])
    flat = [(table, one, counts.get(_key(one), {})) for tables in named[:DRAWN] for table, one in tables]
    found.counts, held = embedded(flat)
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


def _add_experiments(found: Contents, anchor: str, table: pa.Table | None, build: Build) -> None:
    """One section for a kind of table, with a part for each experiment; figures for the first of them."""
    blocks: list[Block] = []
    experiments = list(_by_experiment(table))
    for i, (name, part) in enumerate(experiments):
        built, pictures = build(name, part, i < DRAWN)
        found.pictures += pictures
        blocks += named(name, built) if len(experiments) > 1 else built
    if len(experiments) > 1 and anchor != "examples":
        blocks.insert(0, Text("A stage that several experiments share stands under the first of them alone."))
    if len(experiments) > DRAWN:
        text = f"Figures and pictures are those of the first {DRAWN} of {len(experiments)} experiments."
        blocks.insert(0, Text(text))
    if blocks:
        found.sections.append(Section(anchor, anchor.capitalize(), blocks))


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
