"""Tables in, pages out: the table, the figures and the page of an experiment, from plain Arrow tables.

Knows no store and trains nothing. :func:`write` makes the files, :func:`table_lines` the table for a terminal,
:func:`summarise` the numbers behind both, :func:`published` the paper's figures.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusiondistill.report.published import published
from fusiondistill.report.summary import Cell, Group, Row, summarise
from fusiondistill.report.text import markdown, table_lines

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Cell", "Group", "Row", "published", "summarise", "table_lines", "write"]


def write(
    directory: str | os.PathLike[str],
    results: pa.Table,
    *,
    curves: pa.Table | None = None,
    trials: pa.Table | None = None,
    fusion: pa.Table | None = None,
    facts: Mapping[str, str] | None = None,
    methods: Sequence[str] = (),
    degradations: Sequence[str] = (),
) -> list[Path]:
    """Write ``index.html``, ``table.md`` and ``figures/*.svg, *.png`` into a directory; what is missing shows as "–".

    Args:
        directory: is made if it is not there. Files are replaced one by one, each by temporary file and rename.
        results: counts, as :func:`summarise` takes them.
        curves: rows (stage: str, seed: int64, epoch: int64, name: str, value: float64), a row per metric and epoch.
            Metrics with "accuracy" in their name are fractions and drawn as percent; others are drawn as they are.
        trials: a row per search trial: trial: str, seed: int64, epochs: int64, validation: float64 (accuracy, a
            fraction), stopped: bool. Every other column that is a number is a searched dimension.
        fusion: rows (stage: str, seed: int64, expert: str, distance: float64, barrier: float64).
        facts: what it takes to run it again, by name, in the order given: command, versions, hardware, config ...
        methods: expected rows, and ``degradations`` expected columns, where nothing is evaluated yet.

    Returns:
        The files, ``index.html`` first.

    Raises:
        ValueError: a table lacks a column.
        OSError: the directory cannot be written.
    """
    from fusiondistill.report import page
    from fusiondistill.report.figures import Pictures

    groups = summarise(results, methods=methods, degradations=degradations)
    draw = Pictures()
    of_groups = [draw.of_group(g, f"{i + 1}-" if len(groups) > 1 else "") for i, g in enumerate(groups)]
    sections = [page.group_section(g, i + 1, of_groups[i], len(groups) > 1) for i, g in enumerate(groups)]
    pictures = [picture for drawn in of_groups for picture in drawn]
    if curves is not None and curves.num_rows:
        pictures += (drawn := draw.of_curves(curves))
        sections.append(page.curves_section(drawn))
    if trials is not None and trials.num_rows:
        pictures += (drawn := draw.of_trials(trials))
        sections.append(page.trials_section(trials, drawn))
    if fusion is not None and fusion.num_rows:
        sections.append(page.fusion_section(fusion))
    end = page.facts_section(facts) if facts else None

    folder = Path(directory)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    paths = [folder / "index.html", folder / "table.md"]
    for picture in pictures:
        for suffix, data in ((".svg", picture.svg), (".png", picture.png)):
            paths.append(_replace(folder / "figures" / f"{picture.name}{suffix}", data))
    _replace(paths[1], markdown(groups).encode())
    _replace(paths[0], page.page(groups, sections, end).encode())
    return paths


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
