"""`plan --json` and `status --json`: valid JSON that holds every number of the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner

from fusiondistill.checkpoints import new_attempt
from fusiondistill.plain_json import text_of
from fusiondistill_runner.cli import main
from fusiondistill_runner.driving.prepared import prepare
from fusiondistill_runner.runner import note_plan
from fusiondistill_runner.storage.store import ERROR
from fusiondistill_runner.watching.status_file import STATUS_FILE

CONFIG = """
experiment: odd
seeds: [0, 1]
data: {name: digits, train_images: 200, test_images: 61}
model: {name: cifar_resnet8}
degradations: [{name: blur, as: light, levels: 0..10}, noise]
methods: [base, mine]
define: {mine: {like: vanilla, title: 'caf\u00e9 "a\\b"', epochs: 7}}
evaluation: {every: 25}
"""
CLUSTER = ("--simulate", "workers=2", *(word for kind in ("train=600", "evaluate=9") for word in ("--times", kind)))


class Half(NamedTuple):
    """A store of whose stages the first seed's are stored."""

    config: str
    store: Path
    names: dict[str, str]
    """Name and seed of a stage -> its directory."""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Half:
    folder = tmp_path_factory.mktemp("half")
    (folder / "odd.yaml").write_text(CONFIG)
    prepared = prepare(str(folder / "odd.yaml"), store=str(folder / "store"))
    note_plan(prepared, "fusiondistill run odd.yaml")
    for stage in prepared.plan.stages:
        if stage.seed == 0:
            facts = {"seconds": 1234.5, "training_seconds": 1234.5}
            prepared.store.commit(stage, {"model.safetensors": b"w" * 1000}, facts, new_attempt())
    names = {f"{stage.name} {stage.seed}": stage.directory for stage in prepared.plan.stages}
    return Half(str(folder / "odd.yaml"), folder / "store", names)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def said(*words: str) -> tuple[str, Any]:
    """The text of a verb, and its JSON."""
    text, content = (CliRunner().invoke(main, [*words, *more]) for more in ((), ("--json",)))
    assert text.exit_code == content.exit_code == 0, (text.output, content.output)
    return text.output, json.loads(content.output, parse_constant=refuse)


def numbers(content: Any) -> Iterator[float]:
    """Every number in it, those in texts too."""
    if isinstance(content, dict):
        content = [*content, *content.values()]
    if isinstance(content, list):
        for one in content:
            yield from numbers(one)
    elif isinstance(content, str):
        yield from (float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", content))
    elif content is not None and not isinstance(content, bool):
        yield float(content)


def lacking(text: str, content: Any) -> list[str]:
    """Numbers of a text that are in the JSON neither as they are, nor in percent, hours, kB or MB, as rounded there."""
    there = np.array([number * scale for number in numbers(content) for scale in (1, 100, 1 / 3600, 1e-3, 1e-6)])
    found = re.findall(r"\d[\d,]*(?:\.\d+)?", text)
    steps = [10.0 ** -len(one.partition(".")[2]) for one in found]
    far = [np.abs(there - float(one.replace(",", ""))).min() for one in found]
    return [one for one, step, distance in zip(found, steps, far, strict=True) if distance > 0.51 * step]


def test_a_plan_for_scripts(half: Half) -> None:
    text, content = said("plan", half.config, "--store", str(half.store), *CLUSTER)
    # Minutes and seconds of a duration are apart in the text.
    assert lacking(re.sub(r"\d+ (h|min|s)\b", "", text), content) == []
    left = len(half.names) // 2
    assert [content[key] for key in ("experiment", "total", "done", "missing")] == ["odd", 2 * left, left, left]
    assert content["kinds"]["train"] == {"stages": 4, "done": 2, "missing": 2, "names": ["base", "mine"]}
    assert [row["title"] for row in content["experiments"][0]["rows"]] == ["Base", 'caf\u00e9 "a\\b"']
    assert content["experiments"][0]["degradations"]["light"] == {"name": "blur", "levels": list(range(11))}
    assert (
        content["data"][0]["images"] == {"train": 1397, "test": 400} and content["data"][0]["used"]["training"] == 200
    )
    mine = next(stage for stage in content["stages"] if stage["directory"] == half.names["mine 1"])
    assert mine["state"] == "missing" and mine["inputs"] == [half.names["base 1"]]
    assert content["cost"]["kinds"]["train"] == {"stages": 2, "seconds": pytest.approx(2 * 1234.5), "unknown": 0}
    assert content["simulated"]["clusters"][0]["device_seconds"] == 2 * 600 + (left - 2) * 9
    assert content["simulated"]["times"] == {"assumed": left, "measured": 0, "unknown": []}
    path = [half.names["base 1"], half.names["mine 1"]]
    assert [one["stage"] for one in content["simulated"]["critical_path"]][:2] == path
    assert said("plan", half.config)[1]["simulated"] is None


def test_a_store_for_scripts(half: Half) -> None:
    (half.store / half.names["mine 1"]).mkdir()
    (half.store / half.names["mine 1"] / ERROR).write_bytes(b"Traceback\nValueError: 3 of 17 \xff")
    running = {"directory": half.names["base 1"], "worker": "w 5", "since": 1.0, "epoch": 3, "epochs": 9}
    run = {"state": "running", "host": "h", "process": 1, "updated": 1e14, "seconds_left": 77}
    status = {**run, "running": [{**running, "loss": float("nan"), "validation": 0.625}]}
    (half.store / STATUS_FILE).write_text(json.dumps(status))
    text, content = said("status", str(half.store))
    assert lacking(text, content) == [] and "running on w 5" in text
    counts = {key: content[key] for key in ("total", "done", "running", "failed", "missing")}
    left = len(half.names) // 2
    assert counts == {"total": 2 * left, "done": left, "running": 1, "failed": 1, "missing": left - 2}
    (experiment,) = content["experiments"]
    assert experiment["kinds"]["train"] == {"total": 4, "done": 2, "running": 1, "failed": 1, "missing": 0}
    stages = {stage["directory"]: stage for stage in experiment["stages"]}
    base, mine = stages[half.names["base 1"]], stages[half.names["mine 1"]]
    assert (base["loss"], base["validation"], base["epoch"], base["state"]) == (None, 0.625, 3, "running")
    assert mine["error"] == "ValueError: 3 of 17 ".rstrip() or mine["error"].startswith("ValueError: 3 of 17")
    assert content["outcome"] is None and content["run"]["seconds_left"] == 77
    assert content["device_seconds"] > left * 1234.5
    assert CliRunner().invoke(main, ["status", str(half.store), "--json", "--watch"]).exit_code == 2
    assert CliRunner().invoke(main, ["status", str(half.store.parent), "--json"]).exit_code == 2


def test_odd_values_are_plain() -> None:
    odd = {
        1: np.float32("nan"),
        "\ud800": float("inf"),
        "a": [np.int64(3), (True, None)],
        "b": {"y", "x"},
        "p": Path("q"),
    }
    assert json.loads(text_of(odd), parse_constant=refuse) == {
        "1": None, "?": None, "a": [3, [True, None]], "b": ["x", "y"], "p": "q",
    }  # fmt: skip
