"""One candidate of a search on a worker: its training stages, and the metrics that it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusiondistill.locations import be_patient
from fusiondistill_runner.planning.specs import SearchSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import trial_stage
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store

__all__ = ["metrics_of", "stored_rows", "train_candidate"]

Report = Callable[[dict[str, Any]], None]


def train_candidate(
    search: Stage,
    values: Mapping[str, Any],
    context: Any,
    device: Any,
    report: Report,
    closing: Callable[[], bool] = lambda: False,
) -> None:
    """Train a candidate to its end; with several repeats all of them epoch by epoch, reporting their means.

    ``closing``: as :func:`working.training.run_train` takes it.
    """
    be_patient()  # whoever sent it here had an answer from the store
    store = Store(context.store)
    store.check_there()
    from fusiondistill_runner.working.training import run_train

    spec = search.spec
    assert isinstance(spec, SearchSpec)
    stages = [trial_stage(search, values, repeat) for repeat in range(spec.seeds)]
    if len(stages) == 1:
        run_train(stages[0], context, device, lambda facts: report(metrics_of(facts)), closing=closing)
        return
    for epoch in range(1, spec.train.recipe.epochs + 1):
        tables = [
            _stored_table(one, store) or run_train(one, context, device, lambda _: None, until=epoch) for one in stages
        ]
        report(_mean([table[epoch - 1] for table in tables]))


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of the repeats' metrics of one epoch; their seconds add up."""
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in metrics_of(rows[0])}
    return mean | {"seconds": sum(row["seconds"] for row in rows)}


def _stored_table(stage: Stage, store: Store) -> list[dict[str, float]] | None:
    """The metrics of a finished training, None if it is not stored."""
    if store.intact(stage) is not None:
        return None
    rows: list[dict[str, float]] = read_parquet(store.read(stage, "metrics.parquet")).to_pylist()
    return rows


def stored_rows(search: Stage, values: Mapping[str, Any], store: Store) -> dict[int, dict[str, float]] | None:
    """Epoch -> metrics of a candidate all of whose repeats are stored; None if one is not."""
    assert isinstance(search.spec, SearchSpec)
    tables = []
    for repeat in range(search.spec.seeds):
        table = _stored_table(trial_stage(search, values, repeat), store)
        if table is None:
            return None
        tables.append(table)
    return {epoch: _mean(rows) for epoch, rows in enumerate(zip(*tables, strict=True), start=1)}


def metrics_of(facts: Mapping[str, Any]) -> dict[str, float]:
    """The part of a report that is kept for every epoch."""
    return {n: float(v) for n, v in facts.items() if n in ("epoch", "seconds") or n.startswith("validation")}
