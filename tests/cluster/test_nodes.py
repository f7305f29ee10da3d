"""Several real Ray nodes on this machine: work spreads, late nodes are used, lost ones are survived."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forking import Command
from running import counts, finished, frozen, fusiondistill, stages, started, tell, wait_for, weights

pytestmark = pytest.mark.slow

CONFIG = """
experiment: nodes
seeds: [0]
data: {name: digits, train_images: 400, test_images: 50}
model: {name: cifar_resnet8}
methods: [base, oracle]
degradations: [jpeg, blur, noise]
base: {epochs: 2, batch_size: 32}
expert: {epochs: 16, batch_size: 16}
evaluation: {every: 25, expert_matrix: false}
"""

SHORT = ("--set", "expert.epochs=8")

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fusiondistill_runner", "fusiondistill"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
"""
"""For an interpreter in which the project is not installed."""


@pytest.fixture(scope="module")
def alone() -> tuple[Path, Path, Path]:
    """(config, store, cache) of a run on one machine that nothing happened to."""
    return finished(CONFIG)


@pytest.fixture(scope="module")
def short() -> tuple[Path, Path, Path]:
    """The same of fewer epochs."""
    return finished(CONFIG, *SHORT)


@pytest.fixture
def cluster(ray_head: Any) -> Iterator[Any]:
    """A head without CPUs; the nodes that a test adds end with it."""
    import ray

    yield ray_head
    ray.shutdown()
    for node in list(ray_head.worker_nodes):
        ray_head.remove_node(node)


def places(store: Path, prefix: str) -> list[str]:
    """The nodes that did the stages whose names open so."""
    made = [json.loads((path / "manifest.json").read_text()) for path in stages(store, prefix)]
    found = [re.search("on node ([0-9a-f]+)", stage["worker"]) for stage in made]
    return [match[1] for match in found if match]


def on(alone: tuple[Path, Path, Path], cluster: Any, store: Path, *settings: str) -> tuple[Command, Callable[[], str]]:
    """A run on the cluster, and how to wait for its end; what it printed comes back."""
    config, _, cache = alone
    line = ("run", str(config), "--store", str(store), *settings)
    process = started(*line, cache=cache, address=cluster.address, together=True)

    def end() -> str:
        try:
            output, _ = process.communicate(timeout=280)
        finally:
            process.kill()
        assert process.returncode == 0, output
        return output

    return process, end


def test_work_spreads_over_the_nodes_of_a_cluster(short: tuple[Path, Path, Path], tmp_path: Path, cluster: Any) -> None:
    # Resources of their own kind hold nothing up, and nothing asks for them.
    nodes = {cluster.add_node(num_cpus=1, resources={kind: 2}).node_id[:8] for kind in ("camera", "microphone")}
    _, end = on(short, cluster, tmp_path, *SHORT)
    end()
    assert set(places(tmp_path, "expert")) == nodes
    assert counts(tmp_path) == counts(short[1]) and weights(tmp_path) == weights(short[1])


def _held(store: Path, experts: int) -> tuple[list[int], dict[str, int]]:
    """Stop all workers while so many experts have some of their epochs stored: (process ids, epochs stored)."""
    while True:
        wait_for(lambda: len(list(store.glob("expert-*/progress.json"))) == experts)
        workers = frozen(os.getpid(), "RayTrainWorker")
        found = {path.parent.name: json.loads(path.read_text()) for path in store.glob("expert-*/progress.json")}
        under_way = {name: entry["epoch"] for name, entry in found.items()}
        if len(under_way) == experts and all(1 <= epoch < 16 for epoch in under_way.values()):
            return workers, under_way
        for pid in workers:
            os.kill(pid, signal.SIGCONT)  # one has just come to its end: again with the next


def test_a_late_node_is_used_and_a_lost_one_is_survived(
    alone: tuple[Path, Path, Path], tmp_path: Path, cluster: Any
) -> None:
    first = cluster.add_node(num_cpus=1)
    _, end = on(alone, cluster, tmp_path)
    _held(tmp_path, experts=1)  # until the late node is at work: however fast this machine is, experts are left for it
    late = cluster.add_node(num_cpus=1)
    workers, under_way = _held(tmp_path, experts=2)
    (raylet,) = first.all_processes["raylet"]
    there = {
        int(pid) for pid in Path(f"/proc/{raylet.process.pid}/task/{raylet.process.pid}/children").read_text().split()
    }
    os.kill(raylet.process.pid, signal.SIGKILL)
    for pid in workers:
        os.kill(pid, signal.SIGKILL if pid in there else signal.SIGCONT)
    output = end()
    lost = re.search(r"(expert-\w+)[^\n]*was lost", output)
    assert lost, output
    tell("a node's raylet killed", next(e for n, e in under_way.items() if n.startswith(lost[1])), output, lost[1])
    assert f"node {late.node_id[:8]}" in output and "has joined with 1 slots" in output
    assert f"node {first.node_id[:8]} is gone" in output and "was lost (attempt 1)" in output
    assert late.node_id[:8] in places(tmp_path, "expert")
    assert places(tmp_path, "evaluate")[-1:] == [late.node_id[:8]]
    assert counts(tmp_path) == counts(alone[1]) and weights(tmp_path) == weights(alone[1])


def test_declared_accelerators_draw_the_work(short: tuple[Path, Path, Path], tmp_path: Path, cluster: Any) -> None:
    """Ray takes a node's word for its GPUs. Where torch finds none, the work is done on the CPU of that node."""
    cluster.add_node(num_cpus=2)
    equipped = cluster.add_node(num_cpus=1, num_gpus=1)
    _, end = on(short, cluster, tmp_path, *SHORT)
    assert "Ray counts 1 GPUs there, torch sees none: it works on its CPU" in end()
    made = [json.loads(path.read_text()) for path in tmp_path.glob("*/manifest.json")]
    assert set(places(tmp_path, "")) <= {equipped.node_id[:8]} and {stage["device"] for stage in made} == {"CPU"}
    assert weights(tmp_path) == weights(short[1])


def test_a_node_without_the_project_gets_no_work(alone: tuple[Path, Path, Path], tmp_path: Path, cluster: Any) -> None:
    """It joins when the run is under way: worker groups, searches and data-parallel fits have to keep clear of it."""
    cluster.add_node(num_cpus=1)
    search = "{trials: 2, epochs: 1, scheduler: none, space: {loss.kd: {uniform: [0.1, 1.0]}}}"
    few = ("degradations=[blur]", "base.epochs=24", "expert.epochs=1", "fusiondistill.epochs=1", f"search={search}")
    store = tmp_path / "store"
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    settings = [word for value in ("methods=[fusiondistill]", *few) for word in ("--set", value)]
    _, end = on(alone, cluster, store, *settings)
    wait_for(lambda: list(store.glob("base-*/progress.json")))
    stranger = cluster.add_node(num_cpus=4, env_vars={"PYTHONPATH": str(tmp_path)}).node_id[:8]
    output = end()
    assert f"node {stranger}" in output and "cannot run the project" in output and "gets no work" in output
    assert stages(store, "search") and stages(store, "fusiondistill")
    assert stranger not in places(store, "")
    with pytest.raises(AssertionError, match="cannot run the project"):
        on(alone, cluster, tmp_path / "second")[1]()


OWN = f"""
experiment: own
seeds: [0]
data: {{name: picky, tone: bright, sides: [12, 12]}}
model: {{name: cifar_resnet8}}
methods: [base]
degradations: [blur]
base: {{epochs: 1}}
evaluation: {{every: 50}}
plugins: [{Path(__file__).parents[1] / "plugins" / "picky.py"}]
"""


def test_a_plugins_data_with_parameters_of_its_own_types(tmp_path: Path, cluster: Any) -> None:
    node = cluster.add_node(num_cpus=1).node_id[:8]
    own = finished(OWN)
    _, end = on(own, cluster, tmp_path / "store")
    end()
    assert set(places(tmp_path / "store", "base")) == {node}
    assert counts(tmp_path / "store") == counts(own[1]) and weights(tmp_path / "store") == weights(own[1])
    config, _, cache = own
    line = ("cluster", "check", str(config), "--store", str(tmp_path / "checked"))
    done = fusiondistill(*line, cache=cache, address=cluster.address)
    assert "data: picky (tone bright, sides [12, 12])" in done.stdout, done.stdout + done.stderr
    assert "picky" not in done.stderr


def test_a_store_that_not_all_nodes_see_is_refused(tmp_path: Path, cluster: Any) -> None:
    """One file system cannot be two, so what is missing here is missing everywhere; who is asked is the point."""
    import ray

    from fusiondistill.config import Resources
    from fusiondistill_runner.nodes.capacity import Capacity
    from fusiondistill_runner.nodes.node_checks import KnownFile, Needs, NodeSurvey

    def room(name: str, content: bytes = b"seen", resources: Resources = Resources()) -> Capacity:  # noqa: B008
        known = KnownFile(str(tmp_path), str(tmp_path / name), hashlib.sha256(content).hexdigest())
        return Capacity(ray, resources, NodeSurvey(ray, Needs(known)), lambda: None)

    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    (tmp_path / "seen").write_bytes(b"seen")
    assert room("seen").slots == 1 and len(room("seen").nodes) == 1
    with pytest.raises(ValueError, match=r"node .* does not see the store \(no .*unseen there\)"):
        room("unseen")
    with pytest.raises(ValueError, match=r"does not see the store .another"):  # left there by a store of that node
        room("seen", b"other")
    with pytest.raises(ValueError, match="a worker needs 9 CPU and 0 GPU, which no node has"):
        room("seen", resources=Resources(cpus_per_worker=9))
