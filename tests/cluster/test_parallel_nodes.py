"""One data-parallel run over two real Ray nodes, the same on one, and the same with a worker killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from running import counts, frozen, fusiondistill, half_way, stages, started, tell, weights

pytestmark = pytest.mark.slow

CONFIG = """
experiment: parallel
data: {name: digits, train_images: 300, test_images: 50}
model: {name: cifar_resnet8}
methods: [base]
degradations: [blur]
base: {epochs: 16, batch_size: 16}
resources: {workers_per_run: 2}
evaluation: {every: 25}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("parallel") / "config.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def one_node(config: Path, two_cpus: str) -> Path:
    """The store of an undisturbed run on one node of two CPUs."""
    store = config.parent / "one-node"
    line = ("run", str(config), "--store", str(store))
    done = fusiondistill(*line, cache=config.parent / "cache", timeout=400, address=two_cpus)
    assert done.returncode == 0, done.stdout + done.stderr
    (base,) = stages(store, "base")
    manifest = json.loads((base / "manifest.json").read_text())
    assert manifest["spec"]["world_size"] == 2 and manifest["outcome"]["epochs"] == 16
    assert manifest["outcome"]["validation"] > 0.5
    return store


def rows(store: Path) -> list[dict[str, Any]]:
    (place,) = stages(store, "base")
    table = pq.read_table(next(place.glob("metrics.*.parquet"))).to_pylist()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table]


def test_one_of_two_workers_is_killed(config: Path, one_node: Path, two_cpus: str, tmp_path: Path) -> None:
    line = ("run", str(config), "--store", str(tmp_path))
    with started(*line, cache=config.parent / "cache", address=two_cpus) as process:
        half_way(process, tmp_path, "base")
        one, other = frozen(os.getpid(), "RayTrainWorker")
        stored = half_way(process, tmp_path, "base")
        os.kill(one, signal.SIGKILL)
        os.kill(other, signal.SIGCONT)  # it finds that its peer is gone
        output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert "was lost (attempt 1)" in output
    tell("one of two ranks killed", stored, output, "base")
    assert weights(tmp_path) == weights(one_node)
    assert counts(tmp_path) == counts(one_node)


def test_two_nodes_train_to_the_bits_of_one(config: Path, one_node: Path, ray_head: Any, tmp_path: Path) -> None:
    """A node of one CPU holds one worker, so a run of two lies on both. The sum of two gradients knows no order."""
    for node in list(ray_head.worker_nodes):
        ray_head.remove_node(node)
    for _ in range(2):
        ray_head.add_node(num_cpus=1)
    line = ("run", str(config), "--store", str(tmp_path))
    done = fusiondistill(*line, cache=config.parent / "cache", timeout=400, address=ray_head.address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rows(one_node)) == 16 and rows(tmp_path) == rows(one_node)
    assert weights(tmp_path) == weights(one_node) and len(weights(one_node)) == 1
    assert counts(tmp_path) == counts(one_node)
