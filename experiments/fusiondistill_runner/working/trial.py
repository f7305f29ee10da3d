"""One candidate of a search on a worker: its training stages, and the metrics that it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import spec_of, trial_stage
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Report

__all__ = ["metrics_of", "stored_rows", "train_candidate"]

Rows = list[dict[str, float]]


def train_candidate(
    search: Stage,
    values: Mapping[str, Any],
    context: Any,
    device: Any,
    report: Report,
    closing: Callable[[], bool] = lambda: False,
) -> None:
    """Train a candidate to its end. Its repeats, if there are several, go epoch by epoch, and their means are reported.

    Args:
        report: told the metrics of each epoch; what it raises ends the training.
        closing: whether the run is about to end, so that the current epoch has to be stored.
    """
    from fusiondistill.plugins import load_plugins
    from fusiondistill_runner.working.execute import open_store, perform

    store = open_store(context)
    load_plugins(context.plugins)
    spec = spec_of(search)
    stages = [trial_stage(search, values, repeat) for repeat in range(spec.seeds)]
    if len(stages) == 1:
        perform(stages[0], store, context, device, _of_epochs(lambda facts: report(_told(facts))), closing=closing)
        return

    def rows_of(stage: Stage, epoch: int) -> Rows:
        """The metrics of a repeat up to an epoch, which is trained if it is not stored."""
        table = _stored_table(stage, store)
        if table is None:
            known: dict[int, dict[str, float]] = {}
            told = lambda facts: known.update({int(facts["epoch"]): metrics_of(facts)})  # noqa: E731
            perform(stage, store, context, device, _of_epochs(told), until=epoch)
            table = [known[number] for number in sorted(known)]
        return table

    for epoch in range(1, spec.train.recipe.epochs + 1):
        report({**_mean([rows_of(stage, epoch)[epoch - 1] for stage in stages]), "kept": True})


def _of_epochs(report: Report) -> Report:
    """The report without what is no news of an epoch."""
    return lambda facts: report(facts) if "epoch" in facts else None


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of an epoch: its metrics, and whether it is stored."""
    return {**metrics_of(facts), "kept": facts.get("kept", True)}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of the repeats' metrics of one epoch; their seconds add up."""
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in metrics_of(rows[0])}
    return mean | {"seconds": sum(row["seconds"] for row in rows)}


def _stored_table(stage: Stage, store: Store) -> Rows | None:
    """The metrics of a finished training, None if it is not stored."""
    if store.intact(stage) is not None:
        return None
    rows: Rows = read_parquet(store.read(stage, "metrics.parquet")).to_pylist()
    return rows


def stored_rows(search: Stage, values: Mapping[str, Any], store: Store) -> dict[int, dict[str, float]] | None:
    """Epoch -> metrics of a candidate all of whose repeats are stored; None if one is not."""
    tables = []
    for repeat in range(spec_of(search).seeds):
        table = _stored_table(trial_stage(search, values, repeat), store)
        if table is None:
            return None
        tables.append(table)
    return {epoch: _mean(rows) for epoch, rows in enumerate(zip(*tables, strict=True), start=1)}


def metrics_of(facts: Mapping[str, Any]) -> dict[str, float]:
    """The part of a report that is kept for every epoch."""
    return {n: float(v) for n, v in facts.items() if n in ("epoch", "seconds") or n.startswith("validation")}
