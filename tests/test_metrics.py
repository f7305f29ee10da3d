"""Metrics on their way to TensorBoard, MLflow and Weights & Biases: what an independent reader finds there."""

from __future__ import annotations

import functools
import json
import os
import struct
import sys
import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
import torch

from fusiondistill.config import Config
from fusiondistill.config_file import ConfigError, parse
from fusiondistill.data import fingerprint
from fusiondistill_runner.driving.queue import Event
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.watching import tracking
from fusiondistill_runner.watching.tracking import Feed, MLflow, Run, Tracking, WeightsAndBiases
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute
from fusiondistill_runner.working.metrics import EVENTS, LiveEvents, event_file, scalars

ROWS = [
    {"epoch": e, "seconds": 2.0, "lr": 0.1, "images": 9.0, "train_accuracy": e / 4, "loss": 1 / e, "validation": e / 5,
     "validation_jpeg": e / 6}
    for e in (1, 2, 3)
]  # fmt: skip
CONFIG = "experiment: tracked\nmethods: [base, fusiondistill]\ntracking: {}\n"


def planned(text: str = CONFIG) -> tuple[Config, dict[str, Stage]]:
    config = parse(text)
    plan = build(config, "f", lambda _: range(3))
    return config, {stage.name: stage for stage in plan.stages}


def read_events(path: Path) -> list[tuple[str, int, float, float]]:
    """(tag, step, value, wall time) by the frames and fields of the format itself, with protobuf's generic reader."""
    from tensorboardX.proto.event_pb2 import Event as Record

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record = Record.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        found += [(v.tag, record.step, v.simple_value, record.wall_time) for v in record.summary.value]
    return found


def test_an_event_file_holds_every_metric_of_every_epoch_at_its_time(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    path.write_bytes(event_file(ROWS, ended=1000.0))
    found = read_events(path)
    assert len(found) == 3 * 6
    assert [(step, wall) for tag, step, _, wall in found if tag == "train/loss"] == [
        (1, 996.0),
        (2, 998.0),
        (3, 1000.0),
    ]
    assert {tag: value for tag, step, value, _ in found if step == 2} == pytest.approx(
        {"train/seconds": 2, "train/lr": 0.1, "train/accuracy": 0.5, "train/loss": 0.5, "validation/accuracy": 0.4,
         "validation/jpeg": 1 / 3}
    )  # fmt: skip


def test_a_training_that_goes_on_can_be_followed(tmp_path: Path) -> None:
    path = tmp_path / "base-0123" / "events.89abcdef.tfevents"
    live = LiveEvents(path)
    live.add(ROWS[:2])  # the first was stored by an attempt before
    assert [(step, value) for tag, step, value, _ in read_events(path) if tag == "train/loss"] == [(1, 1), (2, 0.5)]
    live.add(ROWS[:2])
    live.add(ROWS)
    found = [event for event in read_events(path) if event[0] == "train/loss"]
    assert [step for _, step, _, _ in found] == [1, 2, 3] and found[2][3] >= found[1][3]
    assert path.read_bytes().count(b"brain.Event") == 1
    LiveEvents(None).add(ROWS)
    (tmp_path / "file").touch()
    LiveEvents(tmp_path / "file" / "events.tfevents").add(ROWS)  # cannot be written
    multiplexer = pytest.importorskip("tensorboard.backend.event_processing.event_multiplexer")
    runs = multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    path.with_name("new").write_bytes(event_file(ROWS, ended=1000.0))
    path.with_name("new").replace(path)  # as it is committed
    runs.Reload()
    assert [one.step for one in runs.Scalars("base-0123", "train/loss")] == [1, 2, 3]


def test_tensorboard_itself_finds_the_runs(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_multiplexer")
    for name in ("base-0123", "expert-jpeg-4567"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.89abcdef.tfevents").write_bytes(event_file(ROWS, ended=1000.0))
    runs = accumulator.EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    assert set(runs.Runs()) == {"base-0123", "expert-jpeg-4567"}
    scalar = runs.Scalars("expert-jpeg-4567", "validation/accuracy")
    assert [(one.step, one.wall_time) for one in scalar] == [(1, 996.0), (2, 998.0), (3, 1000.0)]


def test_what_is_no_metric_is_left_out() -> None:
    facts = {
        "epoch": 3,
        "epochs": 9,
        "unit": "trial",
        "resumed": 1,
        "validation": 0.5,
        "kd": 2.0,
        "kept": True,
        "loss": None,
    }
    assert scalars(facts) == {"validation/accuracy": 0.5, "train/kd": 2.0}


def test_where_metrics_go_changes_no_stage_and_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    plain = build(parse("experiment: tracked\n"), "f", lambda _: range(3))
    tracked = build(
        parse("experiment: tracked\ntracking: {mlflow: 'sqlite:///m.db', wandb: p}\n"), "f", lambda _: range(3)
    )
    assert [stage.digest for stage in plain.stages] == [stage.digest for stage in tracked.stages]
    with pytest.raises(ConfigError, match=r"line 2: tracking\.mlflow: holds a user or password"):
        parse("experiment: x\ntracking: {mlflow: 'https://me:secret@host/'}\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(
        ConfigError, match=r"tracking\.wandb: wandb is not installed: pip install 'fusiondistill\[wandb\]'"
    ):
        parse("experiment: x\ntracking: {wandb: p}\n")


class Shown:
    """A display's part that trackers use."""

    def __init__(self) -> None:
        self.listeners: list[Any] = []
        self.said: list[str] = []
        self.say = self.said.append


def told(shown: Shown, stage: Stage, kind: Any, **facts: Any) -> None:
    for listener in shown.listeners:
        listener(stage, f"{stage.name}[0]", Event(kind, stage.digest, "group1/0", facts))


def train(shown: Shown, stage: Stage, first: int = 0, last: int = 3, end: str | None = "done") -> None:
    told(shown, stage, "started")
    for row in ROWS[first:last]:
        told(shown, stage, "progress", epochs=3, **row)
    if end:
        told(shown, stage, end)


def test_a_tracker_that_hangs_or_fails_neither_slows_nor_stops_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    config, stages = planned()
    released = threading.Event()

    class Hanging:
        def log(self, run: Run, step: int, values: Mapping[str, float]) -> None:
            released.wait(60)

        end = log

    class Failing(Hanging):
        def log(self, run: Run, step: int, values: Mapping[str, float]) -> None:
            raise ConnectionError("no server answers\nat all")

    monkeypatch.setattr(tracking, "trackers_of", lambda config: {"slow": Hanging, "gone": Failing})
    monkeypatch.setattr(tracking, "PATIENCE", 3.0)
    shown = Shown()
    began = time.monotonic()
    with Tracking(config, shown):
        for _ in range(200):
            train(shown, stages["base"])
        assert time.monotonic() - began < 5
    assert time.monotonic() - began < 15
    released.set()
    assert shown.said[0] == "gone: no server answers; the run goes on without it"
    assert shown.said[1:] == ["slow does not keep up: what it has not taken by now is lost"]


def test_a_file_of_mlflow_has_the_runs_of_an_experiment(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    config, stages = planned(CONFIG.replace("{}", f"{{mlflow: '{uri}'}}"))
    shown = Shown()
    with Tracking(config, shown) as feeding:
        train(shown, stages["base"])
        train(shown, stages["fusiondistill"], last=2, end=None)
        feeding.feeds[0].close(time.monotonic() + 120)  # a new file is made table by table
    again = Shown()
    with Tracking(config, again) as feeding:
        told(again, stages["fusiondistill"], "lost", error="x")
        train(again, stages["fusiondistill"])
        train(again, stages["fused"], last=0)
        feeding.feeds[0].close(time.monotonic() + 120)
    assert shown.said == again.said == []
    client = MLflow(uri).client
    runs = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert sorted(by_name) == sorted(f"{name}[0]" for name in ("base", "fusiondistill")) and len(runs) == 2
    for run in runs:
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "validation/accuracy")
        assert [(one.step, one.value) for one in history] == [(1, 0.2), (2, 0.4), (3, pytest.approx(0.6))]
    distilled = by_name["fusiondistill[0]"].data
    assert distilled.params["loss.kd"] == str(config.fusiondistill.loss.weight("kd"))
    assert distilled.params["loss.kd.temperature"] == "4.0" and distilled.params["seed"] == "0"
    assert distilled.tags["fusiondistill.stage"] == stages["fusiondistill"].directory


def test_weights_and_biases_takes_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    config, stages = planned(CONFIG.replace("{}", "{wandb: ours}"))
    shown = Shown()
    with Tracking(config, shown) as feeding:
        train(shown, stages["base"])
        feeding.feeds[0].close(time.monotonic() + 120)
    assert shown.said == []
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert file.stem == f"run-{stages['base'].directory}"
    data = file.read_bytes()
    assert data.count(b"validation/jpeg") >= 3 and b"tracked" in data


def test_trackers_tell_their_makers_nothing_unless_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for both note what they find in the environment when they are first used."""
    seen: list[dict[str, str]] = []
    note = lambda *_, **__: seen.append(dict(os.environ))  # noqa: E731
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=note))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=note, Settings=dict))
    for theirs in ({}, {"MLFLOW_DISABLE_TELEMETRY": "false", "WANDB_ERROR_REPORTING": "true"}):
        with patch.dict(os.environ):
            for name in ("MLFLOW_DISABLE_TELEMETRY", "WANDB_ERROR_REPORTING"):
                os.environ.pop(name, None)
            os.environ.update(theirs)
            MLflow("sqlite:///x")
            with pytest.raises(AttributeError):  # the stand-in gives no run
                WeightsAndBiases("p").log(Run("d", "n", "e", {}), 1, {})
    told = [(one["MLFLOW_DISABLE_TELEMETRY"], one.get("WANDB_ERROR_REPORTING")) for one in seen]
    assert told == [("true", None), ("true", "false"), ("false", "true"), ("false", "true")]


def test_a_tracker_that_is_not_there_is_said_once() -> None:
    config, stages = planned()
    said: list[str] = []

    def missing() -> Any:
        raise ModuleNotFoundError("No module named 'mlflow'")

    feed = Feed("MLflow", missing, config, said.append)
    feed.thread.join(60)
    note = functools.partial(feed.note, stages["base"], "base")
    for _ in range(3):
        note(Event("progress", "d", "w", dict(ROWS[0])))
    feed.close(time.monotonic())
    assert said == ["MLflow: No module named 'mlflow'; the run goes on without it"] and feed.news.empty()


def test_a_trained_stage_has_one_event_file_from_its_first_epoch_on(tmp_path: Path) -> None:
    text = """
experiment: x
data: {name: digits, train_images: 60, test_images: 20}
model: {name: cifar_resnet8}
methods: [base]
base: {epochs: 3, batch_size: 16}
"""
    base = build(parse(text), fingerprint("digits"), lambda _: range(3)).stages[0]
    seen: list[set[int]] = []

    def report(facts: dict[str, Any]) -> None:
        (path,) = (tmp_path / base.directory).glob("*tfevents*")
        seen.append({step for _, step, _, _ in read_events(path)})

    execute(base, Context(str(tmp_path)), torch.device("cpu"), report)
    assert seen == [{1}, {1, 2}, {1, 2, 3}]
    (path,) = (tmp_path / base.directory).glob("*tfevents*")
    manifest = json.loads((tmp_path / base.directory / "manifest.json").read_text())
    assert manifest["files"][EVENTS]["file"] == path.name
    events = {(tag, step): value for tag, step, value, _ in read_events(path)}
    walls = [wall for tag, _, _, wall in read_events(path) if tag == "train/loss"]
    for row in pq.read_table(next(path.parent.glob("metrics.*"))).to_pylist():
        named = {"train/loss": "loss", "validation/clean": "validation_clean", "train/lr": "lr"}
        for tag, name in named.items():
            assert events[tag, int(row["epoch"])] == pytest.approx(row[name])
    assert manifest["started"] < walls[0] < walls[1] < walls[2] <= manifest["finished"]
