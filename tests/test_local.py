"""``--local``: the same plan without Ray, interrupted and taken up again, and what it refuses."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from forking import Command
from fusiondistill import build_model, save_checkpoint
from fusiondistill.cards import card_of
from fusiondistill.config_file import parse
from fusiondistill.data import load_images
from fusiondistill.plugins import load_plugins, read_plugins
from fusiondistill_runner.driving.alone import alone
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.exporting import results_of
from running import (
    RESULTS,
    contents,
    counts,
    environment,
    epochs_stored,
    finished,
    fusiondistill,
    stages,
    started,
    wait_for,
    weights,
)

CONFIG = """
experiment: here
data: {name: digits, train_images: 120, test_images: 30}
model: {name: cifar_resnet8}
methods: [base, vanilla, fusiondistill]
degradations: [blur, noise]
base: {epochs: 1, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
vanilla: {epochs: 1, batch_size: 32}
fusiondistill: {epochs: 4, batch_size: 16, loss: {kd: 0.5}}
search:
  trials: 2
  scheduler: none
  space: {loss.kd: {loguniform: [0.1, 1.0]}, optimizer.lr: {loguniform: [1.0e-5, 1.0e-2]}}
evaluation: {every: 25}
"""


LONG = """
experiment: here
data: {name: digits, train_images: 120, test_images: 30}
model: {name: cifar_resnet8}
methods: [base]
degradations: [blur, noise]
base: {epochs: 20, batch_size: 16}
evaluation: {every: 25}
"""
"""One training, long enough to be disturbed in."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def under_way(config: Path, store: Path) -> Command:
    """A run of its own process group, over the cache of the undisturbed one."""
    *_, cache = finished(config.read_text())
    return started("run", str(config), "--local", "--store", str(store), cache=cache, together=True, group=True)


def goes_on(config: Path, store: Path) -> str:
    """Run the same command to its end; it must come to what an undisturbed run comes to."""
    _, reference, cache = finished(config.read_text())
    again = fusiondistill("run", str(config), "--local", "--store", str(store), cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr
    assert contents(store, *RESULTS) == contents(reference, *RESULTS)
    assert counts(store) == counts(reference)
    return again.stdout


def test_interrupted_it_ends_in_order_and_goes_on(config: Path, tmp_path: Path) -> None:
    config.write_text(LONG)
    store = tmp_path / "store"
    with under_way(config, store) as process:
        wait_for(lambda: epochs_stored(store, "base") >= 2)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "interrupted: what is stored stays; start the same command again to go on" in output
    assert "Traceback" not in output and not stages(store, "base")
    assert json.loads((store / "status.json").read_text())["state"] == "interrupted"
    reached = epochs_stored(store, "base")
    assert f"base: epoch {reached}/20, found stored" in goes_on(config, store)


def test_a_second_driver_is_refused_and_a_killed_one_goes_on(config: Path, tmp_path: Path) -> None:
    config.write_text(LONG)
    store, (*_, cache) = tmp_path / "store", finished(LONG)
    with under_way(config, store) as process:
        wait_for(lambda: epochs_stored(store, "base") >= 2)
        wait_for(lambda: json.loads((store / "status.json").read_text())["running"])
        status = json.loads((store / "status.json").read_text())
        process.send_signal(signal.SIGSTOP)  # before its end, however long the second one takes
        second = fusiondistill("run", str(config), "--local", "--store", str(store), cache=cache)
        process.kill()
        process.wait()
    assert second.returncode == 1 and f"in use by process {process.pid}" in second.stderr
    assert status["state"] == "running" and status["running"][0]["worker"] == "local"
    assert not stages(store, "base")
    assert "found stored, going on from there" in goes_on(config, store)


def without(tmp_path: Path, *names: str) -> Path:
    """A store as that of the undisturbed run, but for the stages whose names are these patterns."""
    _, reference, _ = finished(CONFIG)
    return shutil.copytree(reference, tmp_path / "store", ignore=shutil.ignore_patterns(*names))


SEARCH = ("search-*", "trial-*", "*searched-*")


def test_a_search_that_is_interrupted_goes_on(config: Path, tmp_path: Path) -> None:
    store = without(tmp_path, *SEARCH)
    with under_way(config, store) as process:
        wait_for(lambda: epochs_stored(store, "trial") >= 1)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and not stages(store, "search"), output
    ended = {path: (path / "manifest.json").stat().st_mtime_ns for path in stages(store, "trial")}
    (search,) = store.glob("search-*")
    assert list(search.glob("last.candidate-*")) and not (search / "error.txt").exists()
    goes_on(config, store)
    assert ended == {path: (path / "manifest.json").stat().st_mtime_ns for path in ended}


def test_it_trains_soon_and_imports_no_ray(tmp_path: Path) -> None:
    """Under 4 s on two idle cores; processor time, since this machine may not be idle."""
    config, _, cache = finished(CONFIG)
    output = (config.parent / "output.txt").read_text()
    assert "--local: one stage after another in this process, on c" in output and "meant for small runs" in output
    store = without(tmp_path, *SEARCH, "vanilla-*", "evaluate-vanilla-*")
    program = (
        "import sys, time\nfrom fusiondistill import batches\nfrom fusiondistill_runner.cli import main\n"
        "whole = batches.Pipeline.epoch\n"
        "def first(self, epoch):\n"
        "    print('first step after', time.process_time(), flush=True)\n"
        "    batches.Pipeline.epoch = whole\n"
        "    return whole(self, epoch)\n"
        "batches.Pipeline.epoch = first\nmain(standalone_mode=False)\n"
        "assert 'ray' not in sys.modules, 'ray was imported'\nprint('no ray')\n"
    )
    line = [sys.executable, "-c", program, "run", str(config), "--local", "--store", str(store),
            "--set", "search.trials=1"]  # fmt: skip
    done = subprocess.run(line, env=environment(cache), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "no ray" in done.stdout, done.stdout + done.stderr
    found = re.search(r"first step after ([\d.]+)", done.stdout)
    assert found and float(found[1]) < 4.5, done.stdout + done.stderr


def test_what_fails_holds_up_nothing_else(config: Path, tmp_path: Path) -> None:
    store, (*_, cache) = tmp_path / "store", finished(CONFIG)
    hot = ("--set", "vanilla.optimizer.lr=1e30", "--set", "search=null")
    done = fusiondistill("run", str(config), "--local", "--store", str(store), *hot, cache=cache)
    assert done.returncode == 1
    assert re.search(r"vanilla.*\n.*is not finite at epoch 1, step \d+ of", done.stderr), done.stderr
    assert "not done, since they need what failed" in done.stderr and "evaluate-vanilla-blur" in done.stderr
    assert stages(store, "fusiondistill") and not stages(store, "vanilla")
    (vanilla,) = store.glob("vanilla-*")
    assert "is not finite" in (vanilla / "error.txt").read_text()
    assert json.loads((store / "status.json").read_text())["state"] == "failed"


def test_several_workers_for_one_training_are_refused(config: Path, tmp_path: Path) -> None:
    *_, cache = finished(CONFIG)
    settings = ("--set", "resources.workers_per_run=2", "--store", str(tmp_path / "store"))
    for verb in ("run", "search"):
        done = fusiondistill(verb, str(config), "--local", *settings, cache=cache)
        assert done.returncode == 2 and "resources.workers_per_run is 2, but --local has one worker" in done.stderr


def test_asha_is_left_out_and_that_is_said(config: Path, tmp_path: Path) -> None:
    *_, cache = finished(CONFIG)
    store = ("--store", str(without(tmp_path, *SEARCH, "fusiondistill-*")))
    small = ("--set", "fusiondistill.epochs=2")
    done = fusiondistill(
        "search", str(config), "--local", *store, *small, "--set", "search.scheduler=asha", cache=cache
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("--local: without ASHA") == 1
    plain = fusiondistill("search", str(config), "--local", *store, *small, cache=cache)
    assert "nothing to do" in plain.stdout and "without ASHA" not in plain.stdout
    through_ray = parse(CONFIG, overrides=["search.scheduler=asha"])
    assert [one.scheduler for one in through_ray.search] == ["asha"]
    assert [one.scheduler for one in alone(through_ray).search] == ["none"]
    short = parse(CONFIG, overrides=["search.scheduler=asha", "search.epochs=1"])
    assert alone(short) == short  # of one epoch nothing can be stopped


def test_optuna_works_one_trial_after_another(config: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    *_, cache = finished(CONFIG)
    small = ("--set", "fusiondistill.epochs=2", "--set", "search.searcher=optuna", "--set", "search.trials=3")
    stores = [without(tmp_path / name, *SEARCH, "fusiondistill-*") for name in ("one", "two")]
    for store in stores:
        done = fusiondistill("search", str(config), "--local", "--store", str(store), *small, cache=cache)
        assert done.returncode == 0, done.stdout + done.stderr
    assert contents(stores[0], *RESULTS) == contents(stores[1], *RESULTS)  # there is one order only
    (search,) = stages(stores[0], "search")
    trials = pq.read_table(next(search.glob("trials.*.parquet"))).to_pylist()
    assert len(trials) == 3 and all(a["finished"] <= b["started"] for a, b in itertools.pairwise(trials))


def test_a_network_is_exported_with_its_results(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    _, store, cache = finished(CONFIG)
    (final,) = (path for path in stages(store, "fusiondistill") if "searched" not in path.name)
    (base,) = stages(store, "evaluate-base-blur")
    out = tmp_path / "hub"
    done = fusiondistill("export", str(final), "--out", str(out), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    said = r"checked: 16 test images of its store at several levels, \d+ pictures: all labels the same, largest"
    assert re.search(said, done.stdout) and done.stdout.splitlines()[-1].startswith("use: fusiondistill.load_model")
    card = ModelCard.load(out / "README.md")
    clean = [100 * right / seen for (method, *_, level), (right, seen) in counts(store).items()
             if (method, level) == ("fusiondistill", 0)]  # fmt: skip
    found = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert found["accuracy in %, clean"] == pytest.approx(sum(clean) / 2, abs=0.01)
    assert "| FusionDistill (one class) |" in card.text and "30 test images" in card.text and "## Protocol" in card.text
    assert "Trained on 108 images of digits." in card.text and "epochs: base 1, expert 1, fusiondistill 4." in card.text
    assert "- It names one class," in card.text and "Always naming the largest class is right for " in card.text
    rows = pq.read_table(store / "classes.parquet").to_pylist()
    for method in ("base", "vanilla", "fusiondistill"):
        named = {row["class"] for row in rows if row["method"] == method and row["said"]}
        (directory, *_) = (path.name for path in stages(store, method) if "searched" not in path.name)
        results = results_of(Store(str(store)), directory)
        assert results and bool(results.warning) == results.name.endswith("(one class)") == (len(named) == 1)
    best = fusiondistill("export", str(store), "--out", str(out), "--force", cache=cache)
    chosen = json.loads((store / "best" / "best.json").read_text())
    assert f", seed {chosen['seed']} ({chosen['stage']}), the store's best" in best.stdout
    assert best.returncode == 0 and f"experiment here, seed {chosen['seed']}" in (out / "README.md").read_text()
    no_network = fusiondistill("export", str(base), "--out", str(tmp_path / "m.pt2"), cache=cache)
    assert no_network.returncode == 2 and "base-" in no_network.stderr.partition("it judged")[2]


NOISY = """
import torch
from torch import nn
from fusiondistill import NETWORKS

class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)

@NETWORKS.register("noisy")
def noisy(classes):
    "Answers by chance."
    return nn.Sequential(nn.Conv2d(3, 8, 3), Noise(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""


def test_an_export_that_answers_otherwise_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    load_plugins(read_plugins([str(tmp_path / "noisy.py")]))
    about: dict[str, Any] = {"classes": list("abcdefgh"), "mean": (127,) * 3, "std": (60,) * 3, "size": (8, 8)}
    state = build_model("noisy", 8).state_dict()
    save_checkpoint(tmp_path / "model.safetensors", state, card_of("noisy", None, dataset="d", **about))
    line = ("export", "model.safetensors", "--plugin", "noisy.py", "--out", "m.pt2")
    done = fusiondistill(*line, cache=finished(CONFIG)[2], cwd=tmp_path)
    assert done.returncode == 1 and "gives another label for" in done.stderr, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "noisy.py"]


def test_checkpoints_are_evaluated(tmp_path: Path) -> None:
    _, store, cache = finished(CONFIG)
    (base,) = stages(store, "base")
    line = ("evaluate", str(base), "--data", "digits", "--images", "30", "--every", "25", "--local")
    names = ("--degradation", "blur", "--degradation", "noise", "--store", str(tmp_path / "judged"))
    began = time.monotonic()
    done = fusiondistill(*line, *names, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {key: value for key, value in counts(store).items() if key[0] == "base"}
    assert counts(tmp_path / "judged") == expected and time.monotonic() - began < 100
    assert weights(tmp_path / "judged").keys() == {next(iter(weights(tmp_path / "judged")))}


def test_a_published_set_of_corruptions_is_evaluated(tmp_path: Path) -> None:
    config, store, cache = finished(CONFIG)
    test = load_images("digits", "test").take(30)
    pixels = test.images.permute(0, 2, 3, 1).numpy()
    (tmp_path / "C").mkdir()
    np.save(tmp_path / "C" / "dark.npy", np.concatenate([pixels // divisor for divisor in (1, 2, 3, 5, 9)]))
    np.save(tmp_path / "C" / "labels.npy", np.tile(test.labels.numpy(), 5))
    shutil.copytree(store, tmp_path / "store")
    given = {"methods": "[base]", "search": "null", "evaluation.corruptions": tmp_path / "C"}
    words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    done = fusiondistill("run", str(config), "--local", "--store", str(tmp_path / "store"), *words, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    found = counts(tmp_path / "store")
    clean = next(value for key, value in found.items() if key[0] == "base" and key[-1] == 0)
    dark = {key[-1]: value for key, value in found.items() if "c-dark" in key}
    assert dark.keys() == set(range(1, 6)) and dark[1] == clean, "severity 1 is the test images as they are"
    wrong = fusiondistill("validate", str(config), "--set", f"evaluation.corruptions={tmp_path}/D", cache=cache)
    assert wrong.returncode == 2 and "no such folder" in wrong.stderr
