"""The sections of the page about training, search, fusion and unfinished stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fusiondistill.counting import counted
from fusiondistill.report.blocks import Block, Mark, Section, Text, figures, named, plain_table
from fusiondistill.report.figures import Picture
from fusiondistill.report.methods import Methods
from fusiondistill.report.stage_figures import dimensions, text_dimensions
from fusiondistill.report.words import MISSING
from fusiondistill.statistics import mean_interval

if TYPE_CHECKING:
    import pyarrow as pa

_UNFINISHED = "unfinished"
_BESIDE = {"epochs": "epochs", "seeds": "seeds per trial"}


def curves_blocks(pictures: Sequence[Picture], more: str = "") -> list[Block]:
    """The training curves; ``more`` is added to their note."""
    text = "Each metric after every epoch of every finished training stage that reports it." + more
    return [Text(text), *figures(pictures)] if pictures else []


def trials_blocks(trials: pa.Table, pictures: Sequence[Picture], importance: pa.Table | None = None) -> list[Block]:
    """The search: what mattered, every trial with the best first, and validation accuracy against each dimension."""
    names = [*dimensions(trials), *text_dimensions(trials)]
    beside = [name for name in ("epochs", "seeds") if name in trials.column_names]
    rows = sorted(
        trials.to_pylist(),
        key=lambda row: (row.get("seed") or 0, bool(row.get("stopped")), -_finite(row.get("validation"), -1.0)),
    )
    body = [
        [
            _plain(row.get("trial")),
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
        f"{counted(len(rows), 'trial')}: the distillation stage{_length(rows)} under other values of "
        f"{', '.join(names) or 'nothing'}, judged by accuracy on the validation split. Sorted by seed, finished trials "
        "first, the best on top."
    )
    if {"ce", "feature", "kd"} <= {name.removeprefix("loss.") for name in names}:
        text += " ce, feature and kd weigh the three terms: cross-entropy, cosine feature, softened logits."
    return [Text(text), *figures(pictures), *_importance(importance), plain_table(titles, body, "Trials")]


def _length(rows: Sequence[dict[str, object]]) -> str:
    """The most epochs of a trial, in words."""
    epochs = [n for row in rows if isinstance(n := row.get("epochs"), int)]
    most = max(epochs, default=0)
    return f" of at most {counted(most, 'epoch')}" if most else ""


def _importance(table: pa.Table | None) -> list[Block]:
    """How much each searched dimension mattered, a row each, the largest first; nothing where that is unknown."""
    found: dict[str, list[object]] = {}
    for row in table.to_pylist() if table is not None else ():
        found.setdefault(str(row.get("dimension")), []).append(row.get("value"))
    if not found:
        return []
    body = [[name, len(values), _spread(values)] for name, values in found.items()]
    body.sort(key=lambda line: str(line[2]), reverse=True)
    text = (
        "A random forest learns the validation accuracy of the trials from their values; a dimension's importance is "
        "what its R² loses when that dimension's values are shuffled (permutation importance), as a share of all: they "
        f"sum to 1. Mean over n searches ± half the 95 % interval. {_fit(table)}"
    )
    table_of = plain_table(["dimension", "n", "importance"], body, "Importance")
    return named("What mattered", [Text(text), table_of])


def _fit(table: pa.Table | None) -> str:
    """The fit of each search's forest, in words."""
    assert table is not None
    by_seed = {row.get("seed"): row["r2"] for row in table.to_pylist() if row.get("r2") is not None}
    if not by_seed:
        return "How well the forest predicts is not on record."
    fits = ", ".join(f"{r2:.2f} (seed {seed})" for seed, r2 in by_seed.items())
    return f"Its R² on trials that it did not learn from: {fits}; near 0 or below, the shares mean nothing."


def fusion_blocks(fusion: pa.Table, pictures: Sequence[Picture] = ()) -> list[Block]:
    """Each expert's distance from the base, and how much worse the average is than the experts (the barrier).

    A distance may be null: experts that did not start from one network have none.
    """
    found: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in fusion.to_pylist():
        found.setdefault((str(row.get("stage")), str(row.get("degradation"))), []).append(row)
    body = [
        [stage, expert, len(rows), *(_spread(row.get(name) for row in rows) for name in ("distance", "barrier"))]
        for (stage, expert), rows in found.items()
    ]
    text = (
        "The distance says how far fine-tuning moved an expert from the base: |expert - base| / |base| over all "
        f"weights, without unit ({MISSING}: the experts did not start from one base). "
        "The barrier says what merging cost: the cross-entropy of the merged network minus the mean of the experts', "
        "in nats (the unit of natural logarithms), on degraded images that were held out of training, or on training "
        "images where none were held out. Near 0 or below, merging cost nothing. Mean over n seeds ± half the 95 % "
        "interval."
    )
    table = plain_table(["stage", "expert of", "n", "distance", "barrier"], body, "Fusion", texts=2)
    return [Text(text), *figures(pictures), table, *_choices(fusion)]


def _choices(fusion: pa.Table) -> list[Block]:
    """What merges chose by themselves; nothing where none did."""
    told = [row for row in fusion.to_pylist() if row.get("chosen")]
    rows = list(dict.fromkeys((str(row.get("stage")), str(row.get("seed")), str(row["chosen"])) for row in told))
    if not rows:
        return []
    text = "What merging methods chose by themselves. Accuracy is that on held-out images; test images chose nothing."
    return [
        Text(text),
        plain_table(["stage", "seed", "chosen"], rows, "Chosen by merges", texts=3),
    ]


def unfinished_line(table: pa.Table | None) -> list[Block]:
    """A line, linked to the section, with the numbers of failed and of missing stages; nothing if all are stored."""
    if table is None or not table.num_rows:
        return []
    failed = int(table.num_rows - table["error"].null_count)
    counts = ((failed, "failed"), (table.num_rows - failed, "not finished"))
    said = (f"{counted(count, 'stage')} {what}" for count, what in counts if count)
    return [Text((Mark(" and ".join(said), f"#{_UNFINISHED}"), "."))]


def unfinished_section(table: pa.Table | None, methods: Methods) -> Section | None:
    """A row for each unfinished stage, failed ones first; None if all are stored."""
    if table is None or not table.num_rows:
        return None
    rows = sorted(table.to_pylist(), key=lambda row: row["error"] is None)
    several = len({row["experiment"] for row in rows}) > 1
    body = [
        [
            methods.name(row["name"]),
            "not finished" if row["error"] is None else f"failed: {row['error']}",
            *([row["experiment"]] if several else []),
            row["seed"],
            row["epochs"] or MISSING,
        ]
        for row in rows
    ]
    titles = ["stage", "state", *(["experiment"] if several else []), "seed", "epochs stored"]
    text = (
        "Trainings, fusions and searches that are under way or still to come, and all failed stages, with the last "
        "line of the stage's error.txt. Their curves, trials and distances are on this page once they are stored."
    )
    return Section(_UNFINISHED, "Not finished", [Text(text), plain_table(titles, body, "Not finished", texts=2)])


def without_curves(table: pa.Table | None) -> str:
    """How many trainings have no curves yet, in a sentence; empty where all have."""
    count = table["kind"].to_pylist().count("train") if table is not None else 0
    return f" {counted(count, 'more is', 'more are')} not finished." if count else ""


def _finite(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise


def _plain(value: object) -> str:
    """A number with three digits; text as it is."""
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
