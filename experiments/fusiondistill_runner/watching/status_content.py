"""What a store holds as JSON has it, for scripts: ``status --json``. Every number of the text is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fusiondistill_runner.storage.best import BEST, FACTS, noted_best
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.networks import left_over
from fusiondistill_runner.watching.status import Seen, StoreWatch

__all__ = ["status_content"]

STATES = ("done", "running", "failed", "missing")


def status_content(store: Store) -> dict[str, Any]:
    """The keys that scripts may rely on; further ones may come.

    - ``store``: its place. ``outcome``: done, failed, or null while there is something to wait for.
    - ``total``, ``done``, ``running``, ``failed``, ``missing``: numbers of stages, each stage once. A stage of which
      epochs are stored and that no worker is at counts as missing.
    - ``device_seconds``: of stored and of running stages.
    - ``run``: null, or what the run last wrote: ``state`` (running, done, failed, interrupted), ``host``, ``process``,
      ``updated`` (seconds since 1970), ``silent`` (seconds without news of a run that may be gone, else null),
      ``seconds_left`` (null: unknown).
    - ``experiments``: a list; of each ``experiment``, ``protocol``, ``seeds``, ``total`` and the numbers by state, and

      - ``kinds``: kind of stage -> the same numbers;
      - ``rows``: what each row of its table is;
      - ``stages``: of each ``name``, ``kind``, ``seed``, ``directory``, ``state``, ``seconds`` (of a stored one),
        ``epochs_stored``, ``error`` (last line), and of a running one ``worker``, ``since``, and what it said last
        (``epoch``, ``epochs``, ``loss``, ``validation``).

    - ``best``: null, or the best network: ``experiment``, ``method``, ``seed``, ``stage``, ``place`` (for ``predict``).
    - ``code``: version of the code -> number of stored stages that it made.
    - ``other_settings``: directories of networks that belong to no table: ``fusiondistill prune`` deletes them.
    """
    seen = StoreWatch(store).look()
    others = left_over(store.glance(), seen.plans)
    status = seen.status
    run = ("state", "host", "process", "updated", "silent", "seconds_left")
    return {
        "store": seen.location,
        "outcome": seen.outcome,
        **_counted([_state(seen, directory) for directory in seen.stages]),
        "device_seconds": seen.device_seconds,
        "run": None if status is None else {key: status.get(key) for key in run},
        "experiments": [_experiment(seen, plan) for plan in seen.plans],
        "best": _best(store),
        "code": dict(seen.codes),
        "other_settings": [directory for left in others.values() for directory in left],
    }


def _best(store: Store) -> dict[str, Any] | None:
    noted = noted_best(store.glance(FACTS))
    if noted is None:
        return None
    return {**{key: noted[key] for key in ("experiment", "method", "seed", "stage")}, "place": store.shown(BEST)}


def _experiment(seen: Seen, plan: Mapping[str, Any]) -> dict[str, Any]:
    stages = [_stage(seen, stage) for stage in plan["stages"]]
    kinds = dict.fromkeys(stage["kind"] for stage in stages)
    config = plan["config"]
    return {
        "experiment": plan["experiment"],
        "protocol": config.get("protocol"),
        "seeds": config.get("seeds"),
        **_counted([stage["state"] for stage in stages]),
        "kinds": {kind: _counted([one["state"] for one in stages if one["kind"] == kind]) for kind in kinds},
        "rows": plan["methods"],
        "stages": stages,
    }


def _stage(seen: Seen, stage: Mapping[str, Any]) -> dict[str, Any]:
    directory = stage["directory"]
    running = {key: value for key, value in seen.running.get(directory, {}).items() if key != "directory"}
    return {
        **{key: stage[key] for key in ("name", "kind", "seed", "directory")},
        "state": _state(seen, directory),
        "seconds": seen.seconds.get(directory),
        "epochs_stored": seen.epochs.get(directory, 0),
        "error": seen.errors.get(directory),
        **running,
    }


def _state(seen: Seen, directory: str) -> str:
    """One of :data:`STATES`, in the order in which the text of ``status`` decides."""
    if directory in seen.seconds:
        return "done"
    return "failed" if directory in seen.errors else "running" if directory in seen.running else "missing"


def _counted(states: list[str]) -> dict[str, int]:
    found = Counter(states)
    return {"total": len(states), **{state: found[state] for state in STATES}}
