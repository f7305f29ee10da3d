"""The time line of a store: when and where each stage and each trial of a search ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["SCHEMA", "Manifests", "timeline"]

Manifests = Callable[[str], Mapping[str, Any] | None]
"""Directory of a stage -> its manifest, None where it is not stored."""
SCHEMA = {
    **dict.fromkeys(("experiment", "stage", "name", "kind"), "string"),
    "seed": "int64",
    **dict.fromkeys(("worker", "host", "device"), "string"),
    **dict.fromkeys(("ready", "started", "finished", "seconds"), "float64"),
    "workers": "int64",
    "gpus": "float64",
}


def timeline(
    plans: Sequence[Mapping[str, Any]], manifests: Manifests, trials: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """A row for each stored stage of the plans, and one for each trial of their searches (kind ``trial``).

    ``seconds`` are those of one worker: for a training the sum over its epochs in all attempts, for a search with
    trials 0 (its trials count), else from start to end. ``workers`` is how many it took at once, ``gpus`` what each of
    them reserved, null where the config leaves that to the cluster. ``ready`` is when the last input was stored, null
    without inputs. A stage that several experiments share stands under the first of them.

    Args:
        plans: as a store holds them.
        manifests: of the stored stages, by directory.
        trials: the rows of ``trials.parquet``, by the directory of the search.
    """
    rows: list[dict[str, Any]] = []
    planned = {stage["directory"] for plan in plans for stage in plan["stages"]}
    seen: set[str] = set()
    gpus = {
        plan["experiment"]: (plan.get("config") or {}).get("resources", {}).get("gpus_per_worker") for plan in plans
    }
    for experiment, stage in ((plan["experiment"], stage) for plan in plans for stage in plan["stages"]):
        directory = stage["directory"]
        manifest = manifests(directory) if directory not in seen else None
        seen.add(directory)
        if manifest is None or "started" not in manifest:
            continue
        own = {"experiment": experiment, "gpus": gpus[experiment], "stage": directory, "seed": stage["seed"]}
        parts = list(_trials(directory, trials.get(directory, ()), planned))
        rows.append(
            {**own, "name": stage["name"], "kind": stage["kind"], **_of_stage(manifest, manifests, bool(parts))}
        )
        for part in parts:
            place = manifests(part["directory"]) or {}
            rows.append({**own, **_of_trial(part), "host": place.get("host"), "device": place.get("device")})
    return rows


def _of_stage(manifest: Mapping[str, Any], manifests: Manifests, divided: bool) -> dict[str, Any]:
    started, finished = manifest["started"], manifest["finished"]
    inputs = [found for name in set(manifest["inputs"].values()) if (found := manifests(name))]
    return {
        "worker": _worker(manifest),
        "host": manifest.get("host"),
        "device": manifest.get("device"),
        "ready": max((one["finished"] for one in inputs if "finished" in one), default=None),
        "started": started,
        "finished": finished,
        "workers": manifest.get("spec", {}).get("world_size", 1),
        "seconds": 0.0 if divided else manifest.get("training_seconds", finished - started),
    }


def _worker(manifest: Mapping[str, Any]) -> str:
    """``group1/0`` of ``group1/0 on node 1234 (process 5)``; a ``local`` worker is named by its process."""
    name, _, process = str(manifest.get("worker", manifest["kind"])).partition(" (")
    name = name.partition(" on node ")[0]
    return process.rstrip(")") if name == "local" and process else name


def _trials(search: str, trials: Sequence[Mapping[str, Any]], planned: set[str]) -> Iterator[dict[str, Any]]:
    """The trials of a search that are not planned stages themselves, each on the first lane that is free."""
    lanes: list[float] = []
    timed = [one for one in trials if one.get("started") and one.get("finished") and one.get("directory")]
    for one in sorted(timed, key=lambda one: (one["started"], one["trial"])):
        if one["directory"] in planned:
            continue
        lane = next((i for i, end in enumerate(lanes) if end <= one["started"]), len(lanes))
        lanes[lane : lane + 1] = [one["finished"]]
        yield {**one, "worker": f"{search.rpartition('-')[0]}/{lane}"}


def _of_trial(trial: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: trial[name] for name in ("worker", "started", "finished", "seconds")}
    return {"name": f"trial {trial['trial']}", "kind": "trial", "ready": None, "workers": 1, **kept}
