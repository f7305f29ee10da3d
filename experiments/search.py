"""The Ray Tune job: trials are the distillation stage itself with another recipe, each with a share of a device.

Every trial is judged on the validation split after each epoch; ASHA stops weak ones early. A trial that ran to its end
is stored like any stage, so it does not run twice; one that was interrupted goes on from its last epoch.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.cluster import Share
from experiments.stage import SearchSpec, Stage, trial_stage
from experiments.store import Store, parquet_bytes
from fusiondistill import checkpoints
from fusiondistill.config import Dimension
from fusiondistill.recipe import with_keys

__all__ = ["run"]

Report = Callable[[dict[str, Any]], None]


def run(stage: Stage, context: Any, share: Share, *, at_once: int, scratch: str, report: Report) -> None:
    """Run the trials and store ``trials.parquet`` and ``best.json``.

    Args:
        stage: the search stage; its inputs are those of the distillation.
        share: what a trial reserves.
        at_once: how many trials may run side by side.
        scratch: a folder for Tune's own files, which nobody needs afterwards.
        report: told how many trials are done and the best accuracy so far.

    Raises:
        RuntimeError: no trial came to a result.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune

    spec = stage.spec
    assert isinstance(spec, SearchSpec)
    began = time.time()
    epochs = spec.train.recipe.epochs
    asha = tune.schedulers.ASHAScheduler(
        time_attr="epoch", metric="validation", mode="max", max_t=epochs, grace_period=max(1, epochs // 4),
        reduction_factor=3, stop_last_trials=False,  # a trial that reaches the end also gets to commit its result
    )  # fmt: skip
    follower = _follower(tune, report, spec.trials)
    tuner = tune.Tuner(
        tune.with_resources(_trial(stage, context), share.resources),
        param_space={name: _domain(tune, dimension) for name, dimension in spec.space.items()},
        tune_config=tune.TuneConfig(
            num_samples=spec.trials,
            search_alg=tune.search.BasicVariantGenerator(
                points_to_evaluate=[_as_it_stands(spec)], random_state=stage.seed, max_concurrent=at_once
            ),
            scheduler=asha if spec.scheduler == "asha" else None,
            reuse_actors=True,  # a trial costs no new process
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=f"{stage.directory}-{int(began)}", storage_path=scratch, verbose=0, callbacks=[follower]
        ),
    )
    tuner.fit()
    trials = [_summary(i, trial, spec) for i, (_, trial) in enumerate(sorted(follower.trials.items()))]
    best = choose(trials)
    if best is None:
        errors = [trial["error"] for trial in trials if trial["error"]]
        raise RuntimeError(f"no trial of the search came to a result: {errors[0] if errors else 'no trial ran'}")
    _store(stage, context, spec, trials, best, began)


def _as_it_stands(spec: SearchSpec) -> dict[str, Any]:
    """The first candidate: the recipe's own values."""
    content: dict[str, Any] = spec.train.recipe.model_dump()
    point = {}
    for name in spec.space:
        value: Any = content
        for part in name.split("."):
            value = value[part]
        point[name] = value
    return point


def _domain(tune: Any, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return tune.choice(list(dimension.choice))
    if dimension.uniform is not None:
        return tune.uniform(*dimension.uniform)
    if dimension.loguniform is not None:
        return tune.loguniform(*dimension.loguniform)
    assert dimension.integers is not None
    low, high = dimension.integers
    return tune.randint(low, high + 1)


def _trial(stage: Stage, context: Any) -> Callable[[dict[str, Any]], None]:
    def trial(values: dict[str, Any]) -> None:
        import torch
        from ray import tune

        from experiments.materials import load_plugins
        from experiments.training_stage import run_train
        from experiments.workers import plain_device

        spec = stage.spec
        assert isinstance(spec, SearchSpec)
        one = trial_stage(stage, with_keys(spec.train.recipe, values))

        def tell(rows: list[dict[str, float]]) -> None:
            for row in rows:
                tune.report({name: float(value) for name, value in row.items()} | {"directory": one.directory})

        torch.set_num_threads(spec.train.threads)
        load_plugins(context.plugins)
        store = Store(context.store)
        if store.intact(one) is None:
            import io

            import pyarrow.parquet as pq

            tell(pq.read_table(io.BytesIO(store.read(one, "metrics.parquet"))).to_pylist())
            return
        run_train(one, context, plain_device(), lambda facts: tell([_numbers(facts)]))

    return trial


def _numbers(facts: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in facts.items() if isinstance(value, int | float)}


def _follower(tune: Any, report: Report, trials: int) -> Any:
    """Collects what the trials report, and tells the driver how far the search is."""

    class Follower(tune.Callback):
        def __init__(self) -> None:
            self.trials: dict[str, dict[str, Any]] = {}
            self.ended = 0

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            fresh: dict[str, Any] = {"values": dict(trial.config), "rows": [], "error": None}
            self.trials.setdefault(trial.trial_id, fresh)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            if "validation" in result:
                self.trials[trial.trial_id]["rows"].append(dict(result))
            self._tell()

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.ended += 1
            self._tell()

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            path = trial.error_file
            text = Path(path).read_text().strip() if path and Path(path).exists() else "the trial ended in an error"
            self.trials[trial.trial_id]["error"] = text.splitlines()[-1]
            self.ended += 1
            self._tell()

        def _tell(self) -> None:
            judged = [row["validation"] for trial in self.trials.values() for row in trial["rows"]]
            best = {"validation": max(judged)} if judged else {}
            report({"epoch": self.ended, "epochs": number, "unit": "trial", **best})

    number = trials
    return Follower()


def _summary(number: int, trial: dict[str, Any], spec: SearchSpec) -> dict[str, Any]:
    """What became of a trial; ``validation`` is the best epoch's mean accuracy, a fraction."""
    rows = trial["rows"]
    best = max(rows, key=lambda row: (row["validation"], row["epoch"])) if rows else {}
    done = int(rows[-1]["epoch"]) if rows else 0
    return {
        "trial": number,
        "values": {name: trial["values"].get(name) for name in spec.space},
        "epochs": done,
        "best_epoch": int(best.get("epoch", 0)),
        "validation": float(best["validation"]) if best else None,
        **{f"validation_{d}": best.get(f"validation_{d}") for d in spec.train.degradations},
        "stopped": bool(rows) and done < spec.train.recipe.epochs,
        "seconds": float(sum(row["seconds"] for row in rows)),
        "error": trial["error"],
        "directory": rows[-1]["directory"] if rows else None,
    }


def choose(trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The trial with the best validation accuracy, the earlier one of equals; None if none ran without an error."""
    judged = [trial for trial in trials if trial["validation"] is not None and not trial["error"]]
    return max(judged, key=lambda trial: (trial["validation"], -trial["trial"]), default=None)


def _store(
    stage: Stage, context: Any, spec: SearchSpec, trials: list[dict[str, Any]], best: dict[str, Any], began: float
) -> None:
    import pyarrow as pa

    found = {"values": best["values"], "validation": best["validation"], "trial": best["trial"]}
    seconds = sum(trial["seconds"] for trial in trials)
    facts = {
        "started": began,
        "finished": time.time(),
        "seconds": time.time() - began,
        "training_seconds": seconds,
        "outcome": {**found, "trials": len(trials), "stopped": sum(trial["stopped"] for trial in trials)},
    }
    files = {
        "trials.parquet": parquet_bytes(pa.Table.from_pylist([_row(trial) for trial in trials])),
        "best.json": json.dumps(found, indent=1).encode(),
    }
    store = Store(context.store)
    store.commit(stage, files, facts, checkpoints.new_attempt())
    for trial in trials:
        if trial["directory"]:
            store.discard(trial["directory"])  # what was stopped early


def _row(trial: dict[str, Any]) -> dict[str, Any]:
    """A trial as a row of its table: one column per dimension, what is no plain value as text."""
    row = dict(trial)
    for name, value in row.pop("values").items():
        row[name] = value if isinstance(value, int | float | str | bool) else str(value)
    return row
