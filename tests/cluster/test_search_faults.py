"""A search whose driver is killed in the middle goes on where it was: nothing that ended runs again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from running import command, environment, frozen, fusiondistill, stages, wait_for

from experiments.prepared import prepare
from experiments.searching.journal import Candidate, Journal
from experiments.stage import Stage
from experiments.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = """
experiment: faults
data: {name: digits, train_images: 400, test_images: 20}
model: {name: cifar_resnet8}
methods: [fusiondistill]
degradations: [blur, noise]
base: {epochs: 1, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
fusiondistill: {epochs: 12, batch_size: 16, loss: {kd: 0.5}}
search:
  trials: 8
  space: {loss.kd: {loguniform: [0.1, 1.0]}, optimizer.lr: {loguniform: [1.0e-5, 1.0e-2]}}
"""


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_killed_search_goes_on(tmp_path: Path, searcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, store, cache = tmp_path / "config.yaml", tmp_path / "store", tmp_path / "cache"
    config.write_text(CONFIG)
    settings = ("--set", f"search.searcher={searcher}", "--store", str(store))
    line = command("search", str(config), *settings)
    with subprocess.Popen(line, env=environment(cache), stdout=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 200
        while not (stages(store, "trial") and any(1 <= epoch <= 4 for epoch in _epochs_of_open_trials(store))):
            assert time.monotonic() < limit and process.poll() is None, "waited in vain"
            time.sleep(0.05)
        process.kill()
    time.sleep(3)  # its workers notice
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(cache))
    (search,) = (s for s in prepare(str(config), [settings[1]], str(store)).plan.stages if s.kind == "search")
    before = _noted(search, store)
    ended = {n: c for n, c in before.items() if c.ended}
    finished = {path: (path / "manifest.json").stat().st_mtime_ns for path in stages(store, "trial")}
    under_way = [c for c in before.values() if not c.ended and (store / c.directories[0] / "progress.json").exists()]
    assert finished and ended and under_way and len(before) < 8

    again = fusiondistill("search", str(config), *settings, cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr
    assert finished == {path: (path / "manifest.json").stat().st_mtime_ns for path in finished}
    trials = pq.read_table(next((store / search.directory).glob("trials.*.parquet"))).to_pylist()
    assert [t["trial"] for t in trials] == list(range(8)) and len({t["optimizer.lr"] for t in trials}) == 8
    for number, one in before.items():
        row = trials[number]
        assert {name: row[name] for name in one.values} == one.values
        if one.ended:
            epochs, best = max(one.rows), max(r["validation"] for r in one.rows.values())
            told = (row["epochs"], row["validation"], row["started"], row["finished"], row["stopped"])
            assert told == (epochs, best, one.started, one.finished, one.outcome == "stopped")
    running = [(t["started"], t["finished"]) for t in trials]
    assert any(a < c < b for n, (a, b) in enumerate(running) for m, (c, _) in enumerate(running) if n != m)  # 2 at once
    for row in trials:
        assert row["error"] is None and row["validation"] is not None
        assert row["stopped"] != ((store / row["directory"]).exists()), row  # what was stopped leaves nothing
    assert again.stdout.count(" %  ") == 8  # the ranking
    outcome = json.loads((store / search.directory / "manifest.json").read_text())["outcome"]
    assert outcome["trials"] == 8 and set(outcome["importance"]) == {"loss.kd", "optimizer.lr"}


def test_a_killed_trial_goes_on_in_another_process(tmp_path: Path) -> None:
    config, reference, store, cache = (tmp_path / name for name in ("config.yaml", "reference", "store", "cache"))
    config.write_text(CONFIG)
    few = ("--set", "search.trials=2", "--set", "search.scheduler=none")
    done = fusiondistill("search", str(config), *few, "--store", str(reference), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(reference, store, ignore=shutil.ignore_patterns("search-*", "trial-*"))
    line = command("search", str(config), *few, "--store", str(store))
    with subprocess.Popen(line, env=environment(cache), stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: any(2 <= epoch <= 6 for epoch in _epochs_of_open_trials(store)), 240)
        trials = frozen(process.pid, "ray::ImplicitFunc")
        reached = {path.parent: json.loads(path.read_text())["epoch"] for path in store.glob("trial-*/progress.json")}
        assert reached and all(1 <= epoch < 12 for epoch in reached.values()) and not stages(store, "search")
        for pid in trials:
            os.kill(pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert sorted(_judged(store)) == sorted(_judged(reference)) and len(_judged(store)) == 24
    models = {path.name: next(path.glob("model.*")).read_bytes() for path in stages(store, "trial")}
    assert models == {path.name: next(path.glob("model.*")).read_bytes() for path in stages(reference, "trial")}


def _judged(store: Path) -> list[tuple[int, int, float]]:
    """(trial, epoch, validation) of every epoch of a search."""
    (search,) = stages(store, "search")
    rows = pq.read_table(next(search.glob("epochs.*.parquet"))).to_pylist()
    return [(row["trial"], row["epoch"], row["validation"]) for row in rows]


def _epochs_of_open_trials(store: Path) -> list[int]:
    found = []
    for path in store.glob("trial-*/progress.json"):
        with contextlib.suppress(FileNotFoundError):
            found.append(json.loads(path.read_text())["epoch"])
    return found


def _noted(search: Stage, store: Path) -> dict[int, Candidate]:
    return {one.number: one for one in Journal(search, Store(store)).candidates}
