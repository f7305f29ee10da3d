"""The time line of a store's stages: who was ready when, what it cost, and the trials of a search on lanes."""

from __future__ import annotations

from typing import Any

from fusiondistill_runner.views.timeline import SCHEMA, timeline


def stage(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "kind": kind, "seed": 0, "directory": f"{name}-0"}


def manifest(kind: str, started: float, finished: float, inputs: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    own = {"kind": kind, "started": started, "finished": finished, "inputs": {f"i{i}": n for i, n in enumerate(inputs)}}
    return {**own, "worker": "group1/0 on node 89abcdef (process 7)", "host": "h", "device": "CPU", **more}


def trial(number: int, started: float, finished: float, directory: str | None, seconds: float) -> dict[str, Any]:
    return {"trial": number, "started": started, "finished": finished, "directory": directory, "seconds": seconds}


MANIFESTS = {
    "base-0": manifest("train", 100, 110, training_seconds=30.0),
    "distilled-0": manifest("train", 118, 125, ("base-0", "expert-0"), training_seconds=7.0),
    "wide-0": manifest("train", 126, 130, spec={"world_size": 4}),
    "expert-0": manifest("import", 90, 111, worker="local (process 9)"),
    "search-0": {"kind": "search", "started": 112, "finished": 125, "inputs": {}, "training_seconds": 40.0},
    "trial-1": manifest("train", 112, 119),
}
TRIALS = [
    trial(0, 112, 113, "distilled-0", 7.0), trial(1, 112, 119, "trial-1", 5.0), trial(2, 113, 116, "trial-2", 3.0),
    trial(3, 116, 125, "trial-3", 8.0), trial(4, 117, 118, None, 0.0),
]  # fmt: skip


def rows(search: bool = True) -> dict[str, dict[str, Any]]:
    stages = [stage("base", "train"), stage("expert", "import"), stage("distilled", "train"), stage("search", "search"),
              stage("lost", "train"), stage("wide", "train")]  # fmt: skip
    config = {"resources": {"gpus_per_worker": 0.5}}
    plans = [{"experiment": name, "stages": stages, "config": config} for name in ("one", "two")]
    found = timeline(plans, MANIFESTS.get, {"search-0": TRIALS} if search else {})
    assert all(row.keys() == SCHEMA.keys() and row["experiment"] == "one" for row in found)
    assert len({row["name"] for row in found}) == len(found)
    return {row["name"]: row for row in found}


def test_a_stage_is_ready_when_its_last_input_is_there() -> None:
    found = rows()
    assert set(found) == {"base", "expert", "distilled", "search", "trial 1", "trial 2", "trial 3", "wide"}
    assert found["base"]["ready"] is None and found["distilled"]["ready"] == 111
    assert (found["base"]["worker"], found["expert"]["worker"]) == ("group1/0", "process 9")
    assert found["base"]["seconds"] == 30, "all attempts of a training"
    assert found["expert"]["seconds"] == 21


def test_a_row_says_how_many_workers_it_took_and_what_each_of_them_held() -> None:
    found = rows()
    assert {name: row["workers"] for name, row in found.items() if row["workers"] != 1} == {"wide": 4}
    assert {row["gpus"] for row in found.values()} == {0.5}


def test_trials_stand_on_as_many_lanes_as_ran_at_once_and_nothing_is_counted_twice() -> None:
    found = rows()
    lanes = {name: row["worker"] for name, row in found.items() if row["kind"] == "trial"}
    assert lanes == {"trial 1": "search/0", "trial 2": "search/1", "trial 3": "search/1"}
    assert found["search"]["seconds"] == 0 and (found["search"]["host"], found["trial 1"]["host"]) == (None, "h")
    assert sum(row["seconds"] for row in found.values()) == 30 + 21 + 7 + 5 + 3 + 8 + 4
    assert rows(search=False)["search"]["seconds"] == 40, "trials of which nothing is known"
