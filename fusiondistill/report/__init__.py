"""The report: the tables, the figures and the page of an experiment, from plain Arrow tables.

:func:`write` makes the files, :func:`table_lines` the table for a terminal, :func:`summarise` the numbers behind both,
:func:`published` the paper's figures.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fusiondistill.locations import move_into_place
from fusiondistill.report.choice import choice_blocks, choice_markdown, choice_sections, choices
from fusiondistill.report.groups import Cell, Comparison, Group, Row
from fusiondistill.report.methods import described
from fusiondistill.report.published import published
from fusiondistill.report.summary import summarise
from fusiondistill.report.text import latex, markdown, overview_lines, table_lines

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Cell", "Comparison", "Group", "Row", "overview_lines", "published", "summarise", "table_lines", "write"]


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
    unfinished: pa.Table | None = None,
    judged: pa.Table | None = None,
    costs: pa.Table | None = None,
    classes: pa.Table | None = None,
    confusions: pa.Table | None = None,
    shares: pa.Table | None = None,
    routing: pa.Table | None = None,
    mistakes: pa.Table | None = None,
    axes: pa.Table | None = None,
    facts: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write ``index.html``, ``table.md``, ``table.tex`` and ``figures/*.svg, *.png``; a missing number is a "–".

    Args:
        directory: is made if it is not there. Files are replaced one by one, each by temporary file and rename;
            figures of an earlier report that this one does not have are deleted.
        results: counts, as :func:`summarise` takes them, like ``planned`` (which also says what each row is called) and
            ``comparisons``; perhaps with the column stage: str, whose counts they are.
        curves: rows (stage: str, seed: int64, epoch: int64, name: str, value: float64), a row per metric and epoch.
            Metrics with "accuracy" in their name are fractions and drawn as percent; others are drawn as they are.
        trials: a row per search trial: trial: str, seed: int64, epochs: int64, validation: float64 (accuracy, a
            fraction), stopped: bool, and perhaps seeds: int64 (how many each trial was judged on). Every other column
            is a searched dimension; those that are numbers are drawn.
        importance: rows (seed: int64, dimension: str, value: float64, 0..1) of what mattered in the searches; perhaps
            with r2: float64 (of the forest that says so).
        fusion: rows (stage: str, seed: int64, degradation: str (whose expert), distance: float64 (null where
            the experts did not start from one base), barrier: float64), and perhaps chosen: str (what the merging
            method chose by itself, "" where nothing).
        samples: rows (experiment: str, degradation: str, level: int64, index: int64 (row of the test split), label: str
            (class name), image: binary (PNG, the degraded image)).
        answers: rows (experiment: str, degradation: str, level: int64, index: int64, method: str, said: str (class
            name)): the methods' answers for the samples.
        timeline: rows (experiment: str, stage: str (directory), name: str, kind: str, seed: int64, worker: str, host:
            str, device: str, ready: float64 (when the last input was stored, seconds since 1970; null without inputs),
            started: float64 (its last start), finished: float64, seconds: float64 (of one worker), and perhaps
            workers: int64 (how many it took at once) and gpus: float64 (of each worker, null where unknown)).
        surface: rows (experiment: str, stage: str, seed: int64, degradation: str (whose expert), alpha: float64 (0: the
            expert, 1: the fused network), loss: float64 (nats)): the loss on the straight line between the two, with
            BatchNorm recomputed at every point.
        unfinished: rows (experiment: str, name: str, kind: str, seed: int64, epochs: int64 (stored so far, or null),
            error: str (null without one)) of stages that are not stored.
        judged: a row for each network that may be chosen as the best one: see
            :data:`~fusiondistill.report.choice.SCHEMA`.
        costs: see :func:`fusiondistill.report.costs.cost_grid`.
        classes, confusions, mistakes: see :func:`fusiondistill.report.class_section.class_blocks`.
        shares, routing: as :func:`summarise` takes them.
        axes: what the sweeps vary: see :func:`fusiondistill.report.sweep_figures.sweep_pictures`.
        facts: name -> text, in the order to show: command, versions, hardware, config ...

    ``curves`` and all tables after it may have a column experiment: str; then each experiment gets a part.

    Returns:
        The files, ``index.html`` first.

    Raises:
        ValueError: a table lacks a column.
        OSError: the directory cannot be written.
    """
    from fusiondistill.report import page

    groups = summarise(results, planned=planned, comparisons=comparisons, shares=shares, routing=routing)
    tables = {
        "comparisons": comparisons, "curves": curves, "trials": trials, "importance": importance, "fusion": fusion,
        "samples": samples, "answers": answers, "timeline": timeline, "surface": surface,
        "unfinished": unfinished, "judged": judged, "costs": costs, "classes": classes, "confusions": confusions,
        "mistakes": mistakes, "axes": axes,
    }  # fmt: skip
    known = described(planned)
    chosen = choices(judged, groups, known)
    found = page.contents(groups, results, tables, known)
    found.sections[1:1] = choice_sections(chosen)  # behind the answer
    end = page.facts_section(facts) if facts else None

    folder = Path(directory)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    earlier = _figures_of_a_report(folder)
    paths = [folder / "index.html", folder / "table.md", folder / "table.tex"]
    for picture in found.pictures:
        for suffix, data in ((".svg", picture.svg), (".png", picture.png)):
            paths.append(_replace(folder / "figures" / f"{picture.name}{suffix}", data))
    best = choice_markdown(chosen, judged)
    _replace(paths[1], markdown(groups, comparisons, known[""], best=best, costs=costs).encode())
    _replace(paths[2], latex(groups).encode())
    top = choice_blocks(chosen, judged)
    text = page.page(groups, found.sections, end=end, counts=found.counts, news=found.news, best=top)
    _replace(paths[0], text.encode())
    for path in earlier - set(paths):
        path.unlink(missing_ok=True)
    return paths


def _figures_of_a_report(folder: Path) -> set[Path]:
    """The figures beside an earlier page of this report; none where another program made the page."""
    from fusiondistill.report.page import MADE

    with contextlib.suppress(OSError):
        if MADE.encode() in (folder / "index.html").read_bytes():
            return {path for path in (folder / "figures").iterdir() if path.suffix in (".png", ".svg")}
    return set()


def _replace(path: Path, data: bytes) -> Path:
    """Replace a file as a whole: a reader sees the old or the new content, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(data)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
