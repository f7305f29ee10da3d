"""The figures of stages: training curves, a search's trials, the loss on the line from experts to their fusion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fusiondistill.counting import counted
from fusiondistill.report.drawing import line_chart
from fusiondistill.report.drawing_panels import Panel, best_chart, panel_charts, scatter_charts
from fusiondistill.report.figures import Picture, Pictures, seeds_line, seeds_text
from fusiondistill.report.methods import Methods
from fusiondistill.report.style import plain_styles
from fusiondistill.report.words import MISSING, degradation_title, in_order, printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["curve_pictures", "dimensions", "surface_pictures", "text_dimensions", "trial_pictures"]

_BOOK_KEEPING = ("trial", "epochs", "seeds", "validation", "stopped", "seed", "experiment")


def curve_pictures(draw: Pictures, curves: pa.Table, methods: Methods) -> Iterator[Picture]:
    """One figure of small panels per metric, a panel for each stage, a line for each seed; accuracies share theirs."""
    found: dict[str, dict[str, dict[str, dict[int, dict[int, float]]]]] = {}
    columns = (curves[name].to_pylist() for name in ("name", "stage", "seed", "epoch", "value"))
    for name, stage, seed, epoch, value in zip(*columns, strict=True):
        if value is not None:
            figure = "accuracy" if "accuracy" in name.lower() else name
            by_metric = found.setdefault(figure, {}).setdefault(stage, {})
            by_metric.setdefault(name, {}).setdefault(seed, {})[epoch] = value
    for name, stages in found.items():
        percent = name == "accuracy"
        metrics = list(dict.fromkeys(metric for by_metric in stages.values() for metric in by_metric))
        panels = [
            Panel(
                stage.name,
                [
                    (metrics.index(metric), *_points(by_epoch, 100 if percent else 1))
                    for metric, by_seed in stages[stage.id].items()
                    for by_epoch in by_seed.values()
                ],
            )
            for stage in methods.sorted(stages)
        ]
        title = printable(name).replace("_", " ").replace("/", " ")
        labels = [printable(metric).replace("_", " ").removesuffix(" accuracy") for metric in metrics]
        seeds = {seed for by_metric in stages.values() for by_seed in by_metric.values() for seed in by_seed}
        text = "One seed." if len(seeds) == 1 else f"n = {len(seeds)} seeds, a line for each."
        yield draw.picture(
            f"training-{name}",
            title[:1].upper() + title[1:],
            text + ("" if percent else " Each panel has its own scale: stages minimise different sums of terms."),
            f"{title} after each epoch for {', '.join(panel.title for panel in panels)}.",
            partial(panel_charts, panels, labels if len(labels) > 1 else [], "epoch", share=percent,
                    y_label=f"{title}, %" if percent else title),
        )  # fmt: skip


def _points(by_epoch: dict[int, float], scale: float) -> tuple[list[float], list[float]]:
    epochs = sorted(by_epoch)
    return [float(epoch) for epoch in epochs], [scale * by_epoch[epoch] for epoch in epochs]


def trial_pictures(draw: Pictures, trials: pa.Table) -> Iterator[Picture]:
    """Validation accuracy against each searched dimension, and the best so far from trial to trial."""
    rows = [row for row in trials.to_pylist() if row.get("validation") is not None]
    panels: list[tuple[str, Sequence[float | str]]] = [
        (printable(name), [_number(row[name]) for row in rows]) for name in dimensions(trials)
    ]
    for name in text_dimensions(trials):
        panels.append((printable(name), [MISSING if row[name] is None else printable(row[name]) for row in rows]))
    if not rows:
        return
    stopped = [bool(row.get("stopped")) for row in rows]
    accuracies = [100 * row["validation"] for row in rows]
    if panels:
        yield draw.picture(
            "search",
            "What the search tried",
            f"One point per trial, n = {len(rows)}; rings are trials that were stopped early.",
            f"Validation accuracy of {counted(len(rows), 'trial')} against {', '.join(name for name, _ in panels)}.",
            partial(scatter_charts, panels, accuracies, stopped, "validation, %"),
        )
    by_seed: dict[int, list[tuple[float, bool]]] = {}
    for row, accuracy, early in sorted(zip(rows, accuracies, stopped, strict=True), key=lambda of: _rank(of[0])):
        by_seed.setdefault(row.get("seed") or 0, []).append((accuracy, early))
    yield draw.picture(
        "search-best",
        "The best so far",
        "Trials in the order in which they were drawn; the line is the best of the finished ones so far. Rings were "
        "stopped early.",
        "Validation accuracy of the best trial so far: "
        + "; ".join(f"seed {seed}, {_best(of)} after {counted(len(of), 'trial')}" for seed, of in by_seed.items())
        + ".",
        partial(best_chart, by_seed, "trial", "validation, %"),
    )  # fmt: skip


def _best(trials: list[tuple[float, bool]]) -> str:
    finished = [accuracy for accuracy, early in trials if not early]
    return f"{max(finished):.1f} %" if finished else "none finished"


def _rank(row: dict[str, object]) -> tuple[int, str]:
    """A trial's sort key: its number, if its name is one."""
    name = str(row.get("trial"))
    digits = "".join(c for c in name if c.isdecimal())
    return int(digits or 0), name


def surface_pictures(draw: Pictures, surface: pa.Table, methods: Methods) -> Iterator[Picture]:
    """The loss on the straight line from each expert to the fused network, a figure per stage."""
    found: dict[str, dict[str, dict[int, dict[float, float]]]] = {}
    names = ("stage", "degradation", "seed", "alpha", "loss")
    for stage, expert, seed, alpha, loss in zip(*(surface[name].to_pylist() for name in names), strict=True):
        if loss is not None:
            found.setdefault(stage, {}).setdefault(expert, {}).setdefault(seed, {})[alpha] = loss
    for stage, experts in found.items():
        lines = []
        for expert, style in zip(in_order(experts), plain_styles(len(experts)), strict=True):
            alphas = sorted({a for by_alpha in experts[expert].values() for a in by_alpha}, reverse=True)
            values = np.array([[by.get(a, np.nan) for a in alphas] for by in experts[expert].values()], dtype=float)
            lines.append(seeds_line(_expert_title(expert, methods), style, np.array(alphas), values))
        ends = "; ".join(f"{line.label}: {line.y[0]:.2f} to {line.y[-1]:.2f}" for line in lines)
        yield draw.picture(
            f"surface-{stage}",
            f"Loss between the fused network and each expert ({printable(stage)})",
            "The way from the fused network to an expert, in steps that mix their weights. A hill on the way is a "
            "barrier: networks there are worse than both ends. BatchNorm's statistics are recomputed at every point. "
            f"{seeds_text(len(by_seed) for by_seed in experts.values())}",
            f"Cross-entropy in nats on the straight line from the fused network (left) to each expert (right). {ends}.",
            partial(line_chart, lines, "1: the fused network, 0: the expert", "cross-entropy, nats"),
        )


def dimensions(trials: pa.Table) -> list[str]:
    """The searched dimensions of a trials table that are numbers."""
    import pyarrow.types as kinds

    numeric = [f.name for f in trials.schema if kinds.is_floating(f.type) or kinds.is_integer(f.type)]
    return [name for name in numeric if name not in _BOOK_KEEPING]


def text_dimensions(trials: pa.Table) -> list[str]:
    """The searched dimensions of a trials table that are texts, like the merging method."""
    import pyarrow.types as kinds

    shown = (kinds.is_string, kinds.is_large_string, kinds.is_boolean)
    return [f.name for f in trials.schema if f.name not in _BOOK_KEEPING and any(is_(f.type) for is_ in shown)]


def _expert_title(expert: str, methods: Methods) -> str:
    """The title of an expert, which is given by its id or by its degradation."""
    if expert in methods.known:
        return methods.name(expert)
    own = [method for method in methods.known.values() if method.own == expert]
    return own[0].name if len(own) == 1 else degradation_title(expert)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
