"""A search whose driver is killed in the middle goes on where it was: nothing that ended runs again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from forking import Command
from fusiondistill_runner.driving.prepared import prepare
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.searching.journal import Candidate, Journal
from fusiondistill_runner.storage.store import Store
from running import ends, finished, frozen, fusiondistill, stages, started, wait_for, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

CONFIG = """
experiment: faults
data: {name: digits, train_images: 400, test_images: 20}
model: {name: cifar_resnet8}
methods: [fusiondistill]
degradations: [blur, noise]
base: {epochs: 1, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
fusiondistill: {epochs: 8, batch_size: 24, loss: {kd: 0.5}}
search:
  trials: 8
  space: {loss.kd: {loguniform: [0.1, 1.0]}, optimizer.lr: {loguniform: [1.0e-5, 1.0e-2]}}
"""


FEW = ("--set", "search.trials=2", "--set", "search.scheduler=none")


@pytest.fixture(scope="module")
def two_trials() -> tuple[Path, Path, Path]:
    """(config, store, cache) of a search with two trials that both come to their end, and that nothing happened to."""
    return finished(CONFIG, *FEW, verb="search")


@pytest.mark.parametrize(("searcher", "place"), [("random", ()), ("optuna", ("--local",))])
def test_a_killed_search_goes_on(
    tmp_path: Path, searcher: str, place: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random candidates two at a time through Ray, and Optuna's, each of which rests on those before it, in turn."""
    search_for = ("--set", f"search.searcher={searcher}")
    # Without Ray no trial is stopped early. Of Optuna's, those before the kill are compared: the first four at most.
    most = ("--set", "search.trials=4") if searcher == "optuna" else ()
    config, reference, cache = finished(CONFIG, *search_for, *most, verb="search")
    store = tmp_path / "store"
    temporary = Path(tempfile.mkdtemp(prefix="fd"))  # a long path would be replaced: sockets bear none
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # (Ray's sockets bear no long path)
    settings = (*search_for, *place, "--store", str(store))
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(cache))
    prepared = prepare(str(config), [settings[1]], str(store), local=bool(place))
    (search,) = (stage for stage in prepared.plan.stages if stage.kind == "search")
    with started("search", str(config), *settings, cache=cache) as process:
        _stopped_half_way(process, search, store)
        process.kill()
    time.sleep(3)  # its workers notice
    for path in temporary.glob("fusiondistill-ray-*/**/*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    before = _noted(search, store)
    ended = {n: c for n, c in before.items() if c.ended}
    before_it = {path: (path / "manifest.json").stat().st_mtime_ns for path in stages(store, "trial")}
    assert before_it and ended and len(before) < 8

    again = fusiondistill("search", str(config), *settings, cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr
    assert not list(temporary.glob("fusiondistill-ray-*"))  # nor what the killed one had left
    assert before_it == {path: (path / "manifest.json").stat().st_mtime_ns for path in before_it}
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
    at_once = any(a < c < b for n, (a, b) in enumerate(running) for m, (c, _) in enumerate(running) if n != m)
    assert at_once == (not place)
    for row in trials:
        assert row["error"] is None and row["validation"] is not None
        assert row["stopped"] != ((store / row["directory"]).exists()), row  # what was stopped leaves nothing
    assert again.stdout.count(" %  ") == 8  # the ranking
    _compare(store, reference, set(before) if searcher == "optuna" else set(range(8)))
    outcome = json.loads((store / search.directory / "manifest.json").read_text())["outcome"]
    assert outcome["trials"] == 8 and set(outcome["importance"]) == {"loss.kd", "optimizer.lr"}


def test_a_killed_trial_goes_on_in_another_process(
    two_trials: tuple[Path, Path, Path], tmp_path: Path, two_cpus: str
) -> None:
    reference, store = two_trials[1], tmp_path / "store"
    with _under_way(two_trials, store, two_cpus) as process:
        trials = frozen(os.getpid(), "ray::RayTrainWorker")
        reached = {path.parent: json.loads(path.read_text())["epoch"] for path in store.glob("trial-*/progress.json")}
        assert reached and all(1 <= epoch < 8 for epoch in reached.values()) and not stages(store, "search")
        for pid in trials:
            os.kill(pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    _equal(store, reference)


def test_a_search_that_is_told_to_end_goes_on(two_trials: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, reference, cache = two_trials
    store = tmp_path / "store"
    with _under_way(two_trials, store, fresh=True) as process:
        family = workers_of(process.pid, "")
        process.send_signal(signal.SIGTERM)
        ends(process, family)
        output, _ = process.said()
    assert process.returncode == 75 and "start the same command again to go on" in output, output
    assert "Traceback" not in output and "local Ray instance" not in output, output  # none was started in the end
    (search,) = store.glob("search-*")
    assert not stages(store, "search") and not (search / "error.txt").exists()
    assert any(1 <= epoch < 8 for epoch in _epochs_of_open_trials(store))
    (search / "error.txt").write_text("left by an earlier run")
    again = fusiondistill("search", str(config), *FEW, "--local", "--store", str(store), cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr
    _equal(store, reference)
    assert not (search / "error.txt").exists()


@contextlib.contextmanager
def _under_way(
    two_trials: tuple[Path, Path, Path], store: Path, address: str | None = None, *, fresh: bool = False
) -> Iterator[Command]:
    """The same search over another store, when a trial has some epochs stored and more to go."""
    config, reference, cache = two_trials
    shutil.copytree(reference, store, ignore=shutil.ignore_patterns("search-*", "trial-*"))
    line = ("search", str(config), *FEW, "--store", str(store))
    with started(*line, cache=cache, address=address, together=True, fresh=fresh) as process:
        wait_for(lambda: any(2 <= epoch <= 4 for epoch in _epochs_of_open_trials(store)), 240)
        yield process


def _stopped_half_way(process: Command, search: Stage, store: Path) -> None:
    """Stop the driver when a trial is stored and another has some epochs: the driver alone says that a trial ends."""

    def open_trials() -> bool:
        return bool(stages(store, "trial")) and any(1 <= epoch <= 3 for epoch in _epochs_of_open_trials(store))

    def half_way() -> bool:
        begun = [c for c in _noted(search, store).values() if not c.ended]
        return open_trials() and any((store / c.directories[0] / "progress.json").exists() for c in begun)

    while True:
        wait_for(lambda: open_trials() or process.poll() is not None, 200)
        assert process.poll() is None, "the search has ended"
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        if half_way():
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.1)


def _models(store: Path) -> dict[str, bytes]:
    """Directory -> weights, of the trials too."""
    return {path.parent.name: path.read_bytes() for path in store.glob("*/model.*.safetensors")}


def _equal(store: Path, reference: Path) -> None:
    """Both searches came to the same: two trials, and the better one."""
    assert sorted(_judged(store)) == sorted(_judged(reference)) and len(_judged(store)) == 16
    assert _models(store) == _models(reference) and stages(store, "trial")
    best = [next(next(iter(stages(one, "search"))).glob("best.*.json")).read_bytes() for one in (store, reference)]
    assert best[0] == best[1]


def _compare(store: Path, reference: Path, numbers: set[int]) -> None:
    """These trials are those of a search that nothing happened to; which of them ASHA stops, and when, is chance.

    A new Optuna knows the trials of the one before, and not what its sampler had drawn: it asks for others.
    """
    ours, theirs = ({(trial, epoch): score for trial, epoch, score in _judged(one)} for one in (store, reference))
    common = {key for key in ours.keys() & theirs.keys() if key[0] in numbers}
    assert {trial for trial, _ in common} == numbers
    assert {key: ours[key] for key in common} == {key: theirs[key] for key in common}
    whole = _models(store).keys() & _models(reference).keys()
    assert any(name.startswith("trial-") for name in whole)
    assert all(_models(store)[name] == _models(reference)[name] for name in whole)


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
