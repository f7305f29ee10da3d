"""A plan as JSON has it, for scripts: ``fusiondistill plan --json``. Every number of the text is in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusiondistill.config import Resources
from fusiondistill_runner.driving.changes import Changed
from fusiondistill_runner.driving.prepared import Prepared
from fusiondistill_runner.forecasting.costs import run_here, seconds_by_kind, trainings_of
from fusiondistill_runner.forecasting.estimates import Estimates
from fusiondistill_runner.forecasting.forecast import Forecast
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.stage import Stage

__all__ = ["plan_content"]


def plan_content(
    prepared: Prepared, changed: Sequence[Changed], estimates: Estimates, simulated: Forecast
) -> dict[str, Any]:
    """The keys that scripts may rely on; further ones may come.

    - ``experiment``, ``store``: name and place.
    - ``experiments``: of each (a sweep's point is one) ``experiment``, ``protocol``, ``seeds``; ``rows``: what each row
      of the table is (``id``, ``title``, ``form``, ``parameters``, ``passes``, ...) with its number of ``stages``;
      ``degradations``: id -> ``name`` and ``levels``; ``stages``: how many.
    - ``kinds``: kind of stage -> ``stages``, ``done``, ``missing``, ``names``.
    - ``stages``: of each ``name``, ``kind``, ``seed``, ``directory``, ``state`` (done or missing), ``inputs``
      (directories), ``seconds`` (estimated, of one worker; null: unknown, or done).
    - ``total``, ``done``, ``missing``: numbers of stages.
    - ``data``: what the images of each data set are. ``notes``: sentences. ``damage``: what will be made again.
    - ``changed_plugins``: ``plugin``, ``since``, ``stages``.
    - ``cost``: of the missing stages ``seconds`` (of one worker, those that are known), ``gpu_seconds`` (null where the
      config does not say what part of a GPU a worker holds), ``unknown`` (stages without an estimate), ``trainings`` of
      searches, and ``kinds``: kind -> ``stages``, ``seconds``, ``unknown``.
    - ``run``: null where a time is unknown, or seconds of a whole run on this machine: ``local`` with --local, ``ray``
      with ``workers`` side by side.
    - ``simulated``: null, or clusters, critical path and bytes, see :meth:`Forecast.content`.
    """
    stages = prepared.plan.stages
    run = run_here(prepared.missing, estimates, prepared.config.resources)
    kinds = {kind: [stage for stage in stages if stage.kind == kind] for kind in dict.fromkeys(s.kind for s in stages)}
    return {
        "experiment": prepared.config.experiment,
        "store": prepared.store.location,
        "total": len(stages),
        "done": len(stages) - len(prepared.missing),
        "missing": len(prepared.missing),
        "experiments": [_experiment(plan) for plan in prepared.points],
        "kinds": {kind: _kind(of, prepared) for kind, of in kinds.items()},
        "stages": [_stage(stage, prepared, estimates) for stage in stages],
        "data": [one.content() for one in prepared.data],
        "notes": list(prepared.notes),
        "damage": list(prepared.damage),
        "changed_plugins": [vars(one) for one in changed],
        "cost": _cost(prepared.missing, estimates, prepared.config.resources),
        "run": vars(run) if run else None,
        "simulated": simulated.content() if simulated.stages else None,
    }


def _experiment(plan: Plan) -> dict[str, Any]:
    config = plan.config
    rows = [
        {**one.content(), "stages": len({row.stage.digest for row in plan.rows if row.method == one.id})}
        for one in plan.descriptions
    ]
    return {
        "experiment": config.experiment,
        "protocol": config.protocol,
        "seeds": list(config.seeds),
        "rows": rows,
        "degradations": {
            name: {"name": one.name, "levels": list(one.levels)} for name, one in plan.degradations.items()
        },
        "stages": len(plan.stages),
    }


def _kind(stages: Sequence[Stage], prepared: Prepared) -> dict[str, Any]:
    done = sum(stage.digest in prepared.stored for stage in stages)
    names = list(dict.fromkeys(stage.name for stage in stages))
    return {"stages": len(stages), "done": done, "missing": len(stages) - done, "names": names}


def _stage(stage: Stage, prepared: Prepared, estimates: Estimates) -> dict[str, Any]:
    done = stage.digest in prepared.stored
    return {
        "name": stage.name,
        "kind": stage.kind,
        "seed": stage.seed,
        "directory": stage.directory,
        "state": "done" if done else "missing",
        "inputs": list(dict.fromkeys(needed.directory for needed in stage.inputs.values())),
        "seconds": None if done else estimates.seconds(stage),
    }


def _cost(missing: Sequence[Stage], estimates: Estimates, resources: Resources) -> dict[str, Any]:
    kinds = {
        kind: {"stages": len(times), "seconds": sum(t for t in times if t is not None), "unknown": times.count(None)}
        for kind, times in seconds_by_kind(missing, estimates).items()
    }
    seconds = sum(one["seconds"] for one in kinds.values())
    return {
        "seconds": seconds,
        "gpu_seconds": seconds * resources.gpus_per_worker if resources.gpus_per_worker else None,
        "unknown": sum(one["unknown"] for one in kinds.values()),
        "trainings": trainings_of(missing),
        "kinds": kinds,
    }
