"""Real processes killed, real clusters joined: a disturbed run ends with the bits of the undisturbed one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from running import command, counts, environment, fusiondistill, stages, wait_for, weights, workers_of

pytestmark = pytest.mark.slow

CONFIG = """
experiment: faults
seeds: [0]
data: {name: digits, train_images: 600, test_images: 50}
model: {name: cifar_resnet8}
methods: [base, oracle]
degradations: [blur, noise]
base: {epochs: 12, batch_size: 16}
expert: {epochs: 3, batch_size: 32}
evaluation: {every: 25}
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(config, store, cache) of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config, store, cache = folder / "config.yaml", folder / "store", folder / "cache"
    config.write_text(CONFIG)
    done = fusiondistill("run", str(config), "--store", str(store), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    return config, store, cache


def _epochs_stored(store: Path, stage: str) -> int:
    for path in store.glob(f"{stage}-*/progress.json"):
        epoch: int = json.loads(path.read_text())["epoch"]
        return epoch
    return 0


def test_a_killed_train_worker(undisturbed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, reference, cache = undisturbed
    store = tmp_path / "store"
    line = command("run", str(config), "--store", str(store))
    with subprocess.Popen(line, env=environment(cache), stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: _epochs_stored(store, "base") >= 2)
        assert not stages(store, "base")  # at least one epoch is stored and one is to go
        workers = workers_of(process.pid, "RayTrainWorker")
        assert workers
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "was lost (attempt 1)" in output
    resumed = re.search(r"base: epoch (\d+)/12, found stored", output)
    assert resumed and int(resumed[1]) >= 2, output
    assert weights(store) == weights(reference)
    assert counts(store) == counts(reference)


def test_a_killed_driver(undisturbed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, reference, cache = undisturbed
    store = tmp_path / "store"
    line = command("run", str(config), "--store", str(store))
    with subprocess.Popen(line, env=environment(cache), stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: _epochs_stored(store, "base") >= 2)
        assert not stages(store, "base")
        process.kill()
    again = fusiondistill("run", str(config), "--store", str(store), cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "found stored, going on from there" in again.stdout
    assert weights(store) == weights(reference)
    assert counts(store) == counts(reference)


def test_two_workers_train_one_run(undisturbed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, _, cache = undisturbed
    store = tmp_path / "store"
    settings = ("--set", "resources.workers_per_run=2", "--set", "methods=[base]")
    done = fusiondistill("run", str(config), "--store", str(store), *settings, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    (base,) = stages(store, "base")
    manifest = json.loads((base / "manifest.json").read_text())
    assert manifest["spec"]["world_size"] == 2 and manifest["outcome"]["epochs"] == 12
    assert manifest["outcome"]["validation"] > 0.5


def test_a_plugin_reaches_the_workers(undisturbed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, _, cache = undisturbed
    plugin = tmp_path / "darken.py"
    plugin.write_text(
        "from fusiondistill.degradations import register\n"
        '@register("darken", range(0, 11))\n'
        "def darken(images, levels):\n"
        '    "Lose a tenth of the light per level."\n'
        "    return (images.int() * (10 - levels.view(-1, 1, 1, 1)) // 10).to(images.dtype)\n"
    )
    settings = ("--set", f"plugins=[{plugin}]", "--set", "degradations=[darken]", "--set", "base.epochs=1")
    done = fusiondistill("run", str(config), "--store", str(tmp_path / "store"), *settings, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {d for _, _, d, _ in counts(tmp_path / "store")} == {"darken"}


def test_a_driver_refuses_a_store_in_use(undisturbed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, _, cache = undisturbed
    store = tmp_path / "store"
    line = command("run", str(config), "--store", str(store))
    with subprocess.Popen(line, env=environment(cache), stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: (store / ".lock").exists() and (store / ".lock").read_text())
        second = fusiondistill("run", str(config), "--store", str(store), cache=cache)
        process.send_signal(signal.SIGTERM)
    assert second.returncode == 1 and f"in use by process {process.pid}" in second.stderr
    assert process.returncode == 75
