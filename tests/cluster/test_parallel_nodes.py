"""One data-parallel run over two real Ray nodes, and the same on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from running import counts, fusiondistill, stages, weights

pytestmark = pytest.mark.slow

CONFIG = """
experiment: parallel
data: {name: digits, train_images: 300, test_images: 50}
model: {name: cifar_resnet8}
methods: [base, oracle]
degradations: [blur]
base: {epochs: 3, batch_size: 32}
expert: {epochs: 3, batch_size: 32, loss: {kd: 0.5}}
resources: {workers_per_run: 2}
evaluation: {every: 25}
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, ray_head: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parallel")
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    found = {}
    for name, cpus in (("one node", (2,)), ("two nodes", (1, 1))):
        found[name] = folder / name.replace(" ", "-")
        nodes = [ray_head.add_node(num_cpus=count) for count in cpus]
        line = ("run", str(config), "--store", str(found[name]))
        done = fusiondistill(*line, cache=folder / "cache", timeout=400, address=ray_head.address)
        assert done.returncode == 0, done.stdout + done.stderr
        for node in nodes:
            ray_head.remove_node(node)
    return found


def rows(store: Path, stage: str) -> list[dict[str, Any]]:
    (place,) = stages(store, stage)
    table = pq.read_table(next(place.glob("metrics.*.parquet"))).to_pylist()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table]


def test_two_nodes_train_to_the_bits_of_one(stores: dict[str, Path]) -> None:
    """A node of one CPU holds one worker, so a run of two lies on both. The sum of two gradients knows no order."""
    one, two = stores.values()
    for stage in ("base", "expert-blur"):
        assert len(rows(two, stage)) == 3
        assert rows(two, stage) == rows(one, stage)
    assert weights(two) == weights(one) and len(weights(one)) == 2
    assert counts(two) == counts(one)
