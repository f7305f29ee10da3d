"""The results of a plan's searches, as lines for a terminal and config files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusiondistill.counting import counted
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.trials import search_name
from fusiondistill_runner.searching.search_results import best_config
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store

__all__ = ["ranking", "search_end"]


def ranking(store: Store, directory: str) -> list[str]:
    """The trials of a search, best first, as lines for a terminal."""
    manifest = store.manifest_of(directory)
    assert manifest is not None
    rows = read_parquet(store.read_from(directory, "trials.parquet")).to_pylist()
    names = list(manifest["spec"]["space"])
    lines = ["  ".join(["trial", f"{'validation':>10}", "epochs", *(f"{name:>18}" for name in names)])]
    for row in sorted(rows, key=lambda row: (row["validation"] is None, -(row["validation"] or 0), row["trial"])):
        accuracy = f"{100 * row['validation']:.2f} %" if row["validation"] is not None else "failed"
        values = [f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in names]
        lines.append(
            "  ".join([f"{row['trial']:5}", f"{accuracy:>10}", f"{row['epochs']:6}", *(f"{v:>18}" for v in values)])
        )
    return lines


def search_end(store: Store, plan: Plan, *, ranked: bool) -> list[str]:
    """Write each search's best as a config file; returns lines with its cost and what mattered.

    Args:
        ranked: also list all trials.
    """
    lines: list[str] = []
    for stage in plan.stages:
        if stage.kind != "search" or not (manifest := store.manifest(stage)):
            continue
        if ranked:
            title = f"{plan.config.experiment}, {stage.name}, seed {stage.seed}"
            lines += ["", f"{title}: validation accuracy of the best epoch, best first"]
            lines += ranking(store, stage.directory)
        outcome = manifest["outcome"]
        minutes = manifest["training_seconds"] / 60
        lines.append(
            f"{stage.name}, seed {stage.seed}: {counted(outcome['trials'], 'trial')}, {outcome['stopped']} stopped "
            f"early, {minutes:.1f} worker-minutes of training; {_importance(outcome)}"
        )
        searched = next((one.of for one in plan.config.search if stage.name == search_name(one.of)), None)
        if searched is None:
            continue  # one network of several: a config has one recipe for all of them
        kind = "" if len(plan.config.search) == 1 else f"-{searched}"
        name = f"{plan.config.experiment}{kind}-seed{stage.seed}.yaml"
        store.write(best_config(plan.config, searched, outcome["values"], stage.seed).encode(), "search", name)
        lines.append(f"  its best as a config: {store.path('search', name)}")
    return lines


def _importance(outcome: Mapping[str, Any]) -> str:
    """How much each dimension mattered, in words."""
    shares = outcome.get("importance")
    if not shares:
        return "too few trials (or too much alike) to say what mattered"
    text = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1]))
    fit = outcome.get("importance_r2")
    return f"what mattered: {text}" + (
        f" (of a forest with an R² of {fit:.2f} out of its bag)" if fit is not None else ""
    )
