"""The sections of the page about training, search and fusion, from the tables of stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fusiondistill.report.drawing import inlined
from fusiondistill.report.figures import Picture
from fusiondistill.report.markup import Markup, element, joined, plain_table, scroll
from fusiondistill.report.stage_figures import dimensions, text_dimensions
from fusiondistill.report.words import MISSING
from fusiondistill.statistics import mean_interval

if TYPE_CHECKING:
    import pyarrow as pa

_BESIDE = {"epochs": "epochs", "seeds": "seeds per trial"}

__all__ = ["curves_body", "figures", "fusion_body", "trials_body"]


def curves_body(pictures: Sequence[Picture], more: str = "") -> Markup:
    """The training curves; ``more``: what else there is to say of them."""
    if not pictures:
        return Markup("")
    text = "Each metric after every epoch of every finished training stage that reports it." + more
    return joined(element("p", text, class_="note"), figures("", pictures))


def trials_body(trials: pa.Table, pictures: Sequence[Picture], importance: pa.Table | None = None) -> Markup:
    """The search: what mattered, every trial with the best first, and validation accuracy against each dimension."""
    names = [*dimensions(trials), *text_dimensions(trials)]
    beside = [name for name in ("epochs", "seeds") if name in trials.column_names]
    rows = sorted(
        trials.to_pylist(),
        key=lambda row: (row.get("seed") or 0, bool(row.get("stopped")), -_finite(row.get("validation"), -1.0)),
    )
    body = [
        [
            row.get("trial"),
            _plain(row.get("seed")),
            *(_plain(row.get(name)) for name in names),
            *(_plain(row.get(name)) for name in beside),
            _percent(row.get("validation")),
            "yes" if row.get("stopped") else "",
        ]
        for row in rows
    ]
    titles = ["trial", "seed", *names, *(_BESIDE[name] for name in beside), "validation, %", "stopped early"]
    text = (
        f"{len(rows)} trials: the distillation stage{_length(rows)} under other values of "
        f"{', '.join(names) or 'nothing'}, judged by accuracy on the validation split. Sorted by seed, finished trials "
        "first, the best on top."
    )
    if {"ce", "feature", "kd"} <= {name.removeprefix("loss.") for name in names}:
        text += " ce, feature and kd weigh the three terms: cross-entropy, cosine feature, softened logits."
    return joined(
        element("p", text, class_="note"),
        figures("", pictures),
        _importance(importance),
        plain_table(titles, body, "Trials"),
    )


def _length(rows: Sequence[dict[str, object]]) -> str:
    """For how many epochs a trial was trained that was not stopped."""
    epochs = [n for row in rows if isinstance(n := row.get("epochs"), int)]
    most = max(epochs, default=0)
    return f" of at most {most} epoch{'' if most == 1 else 's'}" if most else ""


def _importance(table: pa.Table | None) -> Markup:
    """How much each searched dimension mattered, a row each, the largest first; nothing where it is not known."""
    found: dict[str, list[object]] = {}
    for row in table.to_pylist() if table is not None else ():
        found.setdefault(str(row.get("dimension")), []).append(row.get("value"))
    if not found:
        return Markup("")
    body = [[name, len(values), _spread(values)] for name, values in found.items()]
    body.sort(key=lambda line: str(line[2]), reverse=True)
    text = (
        "A random forest learns the validation accuracy of the trials from their values; a dimension's importance is "
        "what its R² loses when that dimension's values are shuffled (permutation importance), as a share of all: they "
        f"sum to 1. Mean over n searches ± half the 95 % interval. {_fit(table)}"
    )
    return joined(
        element("h3", "What mattered"),
        element("p", text, class_="note"),
        plain_table(["dimension", "n", "importance"], body, "Importance"),
    )


def _fit(table: pa.Table | None) -> str:
    """How much the forest of each search can tell at all."""
    assert table is not None
    by_seed = {row.get("seed"): row["r2"] for row in table.to_pylist() if row.get("r2") is not None}
    if not by_seed:
        return "How well the forest predicts is not on record."
    fits = ", ".join(f"{r2:.2f} (seed {seed})" for seed, r2 in by_seed.items())
    return f"Its R² on trials that it did not learn from: {fits}; near 0 or below, the shares mean nothing."


def fusion_body(fusion: pa.Table, pictures: Sequence[Picture] = ()) -> Markup:
    """How far each expert went from the base, and how much worse the average is than what it is made of."""
    found: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in fusion.to_pylist():
        found.setdefault((str(row.get("stage")), str(row.get("expert"))), []).append(row)
    body = [
        [stage, expert, len(rows), *(_spread(row.get(name) for row in rows) for name in ("distance", "barrier"))]
        for (stage, expert), rows in found.items()
    ]
    text = (
        "Distance is how far fine-tuning moved an expert from the base, |expert - base| / |base| over all weights, "
        "without unit. The barrier is the cross-entropy of the merged network minus the mean of the experts', in nats, "
        "on degraded images held out of training (training images where nothing is held out): near 0 or below, "
        "averaging cost nothing. Mean over n seeds ± half the 95 % interval."
    )
    return joined(
        element("p", text, class_="note"),
        figures("", pictures),
        plain_table(["stage", "expert", "n", "distance", "barrier"], body, "Fusion", texts=2),
    )


def figures(title: str, pictures: Sequence[Picture]) -> Markup:
    """Figures beside each other, below them the wide ones, with a heading if there are any."""
    if not pictures:
        return Markup("")
    parts = [element("h3", title) if title else Markup("")]
    for wide in (False, True):
        drawn = [_figure(picture) for picture in pictures if picture.wide == wide]
        parts += [element("div", *drawn, class_="figures wide" if wide else "figures")] if drawn else []
    return joined(*parts)


def _figure(picture: Picture) -> Markup:
    """A figure with title and caption; a wide one scrolls sideways on a phone."""
    drawing = Markup(inlined(picture.svg, f"{picture.name}-", picture.alt))
    shown = scroll(drawing, picture.title) if picture.wide else drawing
    return element("figure", element("h4", picture.title), shown, element("figcaption", picture.caption))


def _finite(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise


def _plain(value: object) -> str:
    """A number as a person would write it, three digits; text as it is."""
    if value is None:
        return MISSING
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _percent(value: object) -> str:
    return f"{100 * value:.1f}" if isinstance(value, int | float) and math.isfinite(value) else MISSING


def _spread(values: Iterable[object]) -> str:
    known = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if not known:
        return MISSING
    interval = mean_interval(known)
    return f"{interval.mean:.3f}" + ("" if interval.half is None else f" ±{interval.half:.3f}")
