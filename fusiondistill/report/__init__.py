"""Tables in, pages out: the table, the figures and the page of an experiment, from plain Arrow tables.

Knows no store and trains nothing. :func:`write` makes the files, :func:`table_lines` the table for a terminal,
:func:`summarise` the numbers behind both, :func:`published` the paper's figures.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusiondistill.report.between import between_grids
from fusiondistill.report.groups import Cell, Comparison, Group, Row
from fusiondistill.report.published import published
from fusiondistill.report.summary import summarise
from fusiondistill.report.text import markdown, overview_lines, table_lines

if TYPE_CHECKING:
    import pyarrow as pa

    from fusiondistill.report.figures import Picture, Pictures
    from fusiondistill.report.markup import Markup

__all__ = ["Cell", "Comparison", "Group", "Row", "overview_lines", "published", "summarise", "table_lines", "write"]

_DRAWN = 12  # groups of which figures are drawn


def write(
    directory: str | os.PathLike[str],
    results: pa.Table,
    *,
    planned: pa.Table | None = None,
    comparisons: pa.Table | None = None,
    curves: pa.Table | None = None,
    trials: pa.Table | None = None,
    importance: pa.Table | None = None,
    fusion: pa.Table | None = None,
    samples: pa.Table | None = None,
    answers: pa.Table | None = None,
    timeline: pa.Table | None = None,
    surface: pa.Table | None = None,
    facts: Mapping[str, str] | None = None,
    methods: Sequence[str] = (),
    degradations: Sequence[str] = (),
) -> list[Path]:
    """Write ``index.html``, ``table.md`` and ``figures/*.svg, *.png`` into a directory; what is missing shows as "–".

    Args:
        directory: is made if it is not there. Files are replaced one by one, each by temporary file and rename.
        results: counts, as :func:`summarise` takes them, like ``planned`` and ``comparisons``.
        curves: rows (stage: str, seed: int64, epoch: int64, name: str, value: float64), a row per metric and epoch.
            Metrics with "accuracy" in their name are fractions and drawn as percent; others are drawn as they are.
        trials: a row per search trial: trial: str, seed: int64, epochs: int64, validation: float64 (accuracy, a
            fraction), stopped: bool, and perhaps seeds: int64 (how many each trial was judged on). Every other column
            is a searched dimension; those that are numbers are drawn.
        importance: rows (seed: int64, dimension: str, value: float64, 0..1) of what mattered in the searches.
        fusion: rows (stage: str, seed: int64, expert: str, distance: float64, barrier: float64).
        samples: rows (experiment: str, degradation: str, level: int64, index: int64 (row of the test split), label: str
            (class name), image: binary (PNG, the degraded image)).
        answers: rows (experiment: str, degradation: str, level: int64, index: int64, method: str, said: str (class
            name)): what methods said of the samples.
        timeline: rows (experiment: str, stage: str (directory), name: str, kind: str, seed: int64, worker: str, host:
            str, device: str, ready: float64 (when the last input was there, seconds since 1970; null without inputs),
            started: float64, finished: float64, seconds: float64 (that it cost one worker)).
        surface: rows (experiment: str, stage: str, seed: int64, expert: str, alpha: float64 (0: the expert, 1: the
            fused network), loss: float64 (nats)): on the straight way between, BatchNorm recomputed at every point.
        facts: what it takes to run it again, by name, in the order given: command, versions, hardware, config ...
            ``curves``, ``trials``, ``importance`` and ``fusion`` may have a column experiment: str; a table of several
            experiments gives a section for each.
        methods: expected rows, and ``degradations`` expected columns, where nothing is evaluated yet.

    Returns:
        The files, ``index.html`` first.

    Raises:
        ValueError: a table lacks a column.
        OSError: the directory cannot be written.
    """
    from fusiondistill.report import page
    from fusiondistill.report import sections as page_sections
    from fusiondistill.report.figures import Pictures

    groups = summarise(
        results, planned=planned, comparisons=comparisons, methods=methods, degradations=degradations
    )  # fmt: skip
    draw = Pictures()
    sections, pictures = _group_sections(groups, draw)
    sections = [*map(page.between_section, between_grids(comparisons)), *sections]
    for name, part in _by_experiment(curves):
        pictures += (drawn := draw.of_curves(part))
        sections.append(page_sections.curves_section(drawn, name))
    importances = dict(_by_experiment(importance))
    for name, part in _by_experiment(trials):
        pictures += (drawn := draw.of_trials(part))
        sections.append(page_sections.trials_section(part, drawn, importances.get(name), name))
    for name, part in _by_experiment(fusion):
        sections.append(page_sections.fusion_section(part, name))
    end = page.facts_section(facts) if facts else None

    folder = Path(directory)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    paths = [folder / "index.html", folder / "table.md"]
    for picture in pictures:
        for suffix, data in ((".svg", picture.svg), (".png", picture.png)):
            paths.append(_replace(folder / "figures" / f"{picture.name}{suffix}", data))
    _replace(paths[1], markdown(groups, comparisons).encode())
    _replace(paths[0], page.page(groups, sections, end).encode())
    return paths


def _group_sections(groups: Sequence[Group], draw: Pictures) -> tuple[list[Markup], list[Picture]]:
    """A section for each group; the more groups there are, the fewer figures."""
    from fusiondistill.report import page

    several = len(groups) > 1
    sections: list[Markup] = []
    pictures: list[Picture] = []
    for i, group in enumerate(groups):
        shown = [] if len(groups) > _DRAWN else [group] if several else [group, *group.others]
        drawn = {one.kind: draw.of_group(one, f"{i + 1}-" if several else "") for one in shown}
        pictures += [picture for of_kind in drawn.values() for picture in of_kind]
        sections.append(page.group_section(group, i + 1, drawn, several))
    return sections, pictures


def _by_experiment(table: pa.Table | None) -> Iterator[tuple[str, pa.Table]]:
    """The table's experiments with their rows; one table of one experiment goes by the name of ""."""
    if table is None or not table.num_rows:
        return
    names = table["experiment"].to_pylist() if "experiment" in table.column_names else [""]
    unique = list(dict.fromkeys(names))
    if len(unique) == 1:
        yield "", table
        return
    for name in unique:
        yield name, table.filter([of == name for of in names])


def _replace(path: Path, data: bytes) -> Path:
    """Put a file in place as a whole: a reader sees the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
