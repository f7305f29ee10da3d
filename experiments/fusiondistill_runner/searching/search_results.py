"""The results of a search: tables of its trials, the winner, what mattered, and the winner as a config file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fusiondistill import safe_yaml
from fusiondistill.config import Config
from fusiondistill.methods import SEARCHED, Merge, Trained
from fusiondistill.recipe import Recipe
from fusiondistill.search_rules import START
from fusiondistill_runner.planning.specs import SearchSpec
from fusiondistill_runner.planning.trials import with_found
from fusiondistill_runner.searching.importance import importance
from fusiondistill_runner.searching.journal import Candidate

__all__ = ["best_config", "choose", "epoch_rows", "outcome", "summary", "trial_rows", "without_nothing"]


def summary(candidate: Candidate, spec: SearchSpec) -> dict[str, Any]:
    """A candidate's outcome; ``validation`` is the mean accuracy of its best epoch (the last of equals), a fraction."""
    rows = list(candidate.rows.values())
    best: Mapping[str, float] = max(rows, key=lambda row: (row["validation"], row["epoch"])) if rows else {}
    return {
        "trial": candidate.number,
        "values": {name: candidate.values.get(name) for name in spec.space},
        "epochs": int(max(candidate.rows, default=0)),
        "best_epoch": int(best.get("epoch", 0)),
        "validation": float(best["validation"]) if best else None,
        **{f"validation_{d}": best.get(f"validation_{d}") for d in (one.id for one in spec.train.degradations)},
        "stopped": candidate.outcome == "stopped",
        "seconds": float(sum(row["seconds"] for row in rows)),
        "error": candidate.error,
        "directory": candidate.directories[0] if candidate.directories else None,
        "seeds": spec.seeds,
        "started": candidate.started,
        "finished": candidate.finished,
    }


def choose(trials: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The trial with the best validation accuracy, the earlier one of equals; None if none ran without an error."""
    judged = [trial for trial in trials if trial["validation"] is not None and not trial["error"]]
    return max(judged, key=lambda trial: (trial["validation"], -trial["trial"]), default=None)


def trial_rows(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Summaries as rows of a table; each dimension gets a column of numbers, truth values or texts."""
    rows = [{name: value for name, value in trial.items() if name != "values"} for trial in trials]
    for name in trials[0]["values"] if trials else ():
        for row, value in zip(rows, _column([trial["values"][name] for trial in trials]), strict=True):
            row[name] = value
    return rows


def _column(values: Sequence[Any]) -> list[Any]:
    """Values of one type: as they are if they have one, else as text."""
    if all(isinstance(value, bool) for value in values) or all(isinstance(value, str) for value in values):
        return list(values)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        whole = all(isinstance(value, int) for value in values)
        return list(values) if whole else [float(value) for value in values]
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def epoch_rows(candidates: Sequence[Candidate], degradations: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each candidate and epoch: ``trial``, ``epoch``, ``validation``, ``validation_<d>``, ``seconds``."""
    names = ("validation", *(f"validation_{d}" for d in degradations), "seconds")
    return [
        {"trial": one.number, "epoch": epoch, **{name: row.get(name) for name in names}}
        for one in candidates
        for epoch, row in sorted(one.rows.items())
    ]


def outcome(candidates: Sequence[Candidate], best: Mapping[str, Any]) -> dict[str, Any]:
    """The ``outcome`` in a search's manifest: the winner, counts, and how much each dimension mattered.

    The importance compares trials after the number of epochs that all of them reached. Otherwise a trial would rank low
    only because ASHA stopped it early.
    """
    judged = [one for one in candidates if one.score is not None]
    epoch = min(max(one.rows) for one in judged)
    scores = [max(row["validation"] for e, row in one.rows.items() if e <= epoch) for one in judged]
    shares, fit = importance([one.values for one in judged], scores)
    return {
        "values": best["values"],
        "validation": best["validation"],
        "trial": best["trial"],
        "trials": len(candidates),
        "stopped": sum(one.outcome == "stopped" for one in candidates),
        "failed": sum(one.outcome == "failed" for one in candidates),
        "importance": shares,
        "importance_r2": fit,
        "importance_epoch": epoch,
        "directories": [d for one in candidates if one.outcome == "done" for d in one.directories],
    }


def best_config(config: Config, method: str, values: Mapping[str, Any], seed: int | None = None) -> str:
    """One seed of the experiment with what a search found, and without the search, as the text of a config file.

    Its row ``method`` is the row ``<method>-searched`` of the original. Its only other rows are those trained on clean
    images, which the corruption error is relative to. A run of it into the same store makes only the training and its
    evaluations.

    Args:
        config: the experiment with the search.
        method: the searched method.
        values: ``values`` of ``best.json``.
        seed: of the search; default: the first.
    """
    seed = config.seeds[0] if seed is None else seed
    end = f"-best-seed{seed}" if method == SEARCHED else f"-best-{method}-seed{seed}"
    kept = [name for name in config.methods if name == method or config.table[name].form == "clean"]
    best = config.model_copy(
        update={
            "experiment": config.experiment[: 64 - len(end)] + end,
            "seeds": (seed,),
            "methods": tuple(kept),
            "table": {**config.table, method: _found(config, method, values)},
            "search": (),
        }
    )
    listed = "".join(f"#   {name}: {json.dumps(value)}\n" for name, value in values.items())
    head = (
        f"# {config.experiment}, seed {seed}, with what the search of {method} found laid into it:\n{listed}"
        "# Run it with the --store of the search: only the training itself and its evaluation are new.\n"
    )
    content = without_nothing(best.content())
    return head + safe_yaml.write(content)


def _found(config: Config, name: str, values: Mapping[str, Any]) -> Trained:
    """A method with the values that its search found."""
    method = config.table[name]
    assert isinstance(method, Trained)
    recipe = with_found(method.recipe, values)
    update: dict[str, Any] = {key: getattr(recipe, key) for key in Recipe.model_fields}
    if recipe.resized_crop is None:  # a ratio that was drawn beside it says nothing
        update["resized_crop_ratio"] = Recipe.model_fields["resized_crop_ratio"].default
    start = {key.removeprefix(START): value for key, value in values.items() if key.startswith(START)}
    if start:
        merge = method.start if isinstance(method.start, Merge) else config.table[method.start].start  # type: ignore[union-attr]
        assert isinstance(merge, Merge)
        update["start"] = merge.changed(start)
    return method.model_copy(update=update)


def without_nothing(content: Any) -> Any:
    """The content without its null values: null is the default of each such key."""
    if isinstance(content, dict):
        return {name: without_nothing(value) for name, value in content.items() if value is not None}
    return content
