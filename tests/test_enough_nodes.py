"""Asking a growing cluster for room: what is asked for, what comes of it, that it is given back. No Ray is started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from fusiondistill.config import Resources
from fusiondistill_runner.nodes.check import Facts, NodeFacts
from fusiondistill_runner.nodes.cluster import nodes_of
from fusiondistill_runner.nodes.growing import enough_nodes
from fusiondistill_runner.runner import check_cluster

FOUR_CPUS = Resources(workers=2, cpus_per_worker=4)


class Nodes:
    """Stands for the module ``ray``: a head without work, and workers of four CPUs."""

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers

    def nodes(self) -> list[dict[str, Any]]:
        return [_node("head", 0), *(_node(f"worker{i}", 4) for i in range(self.workers))]


def _node(name: str, cpus: int) -> dict[str, Any]:
    return {"NodeID": name, "NodeManagerAddress": name, "NodeManagerPort": 1, "Resources": {"CPU": cpus}, "Alive": True}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What was asked of the autoscaler, by a run that waits for a second."""
    import ray.autoscaler.sdk

    requests: list[Any] = []
    monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", lambda bundles: requests.append(bundles))
    monkeypatch.setenv("FUSIONDISTILL_WAIT_FOR_NODES", "1")
    yield requests


def test_room_is_given_back_before_a_run_that_is_stopped_ends(asked: list[Any]) -> None:
    stopped = False

    def check() -> None:
        if stopped:
            raise KeyboardInterrupt

    with enough_nodes(Nodes(workers=2), FOUR_CPUS, print, check, lambda nodes: None) as checked:
        checked()
        assert asked == [[{"CPU": 4}] * 2]
        stopped = True
        with pytest.raises(KeyboardInterrupt):
            checked()
        assert asked[1:] == [[]]  # at once: what follows may be cut short


def test_machines_that_do_not_come_are_not_a_mistake_in_the_config(asked: list[Any]) -> None:
    """An autoscaler that brings nothing is named: exit code 1, not a setting to lower."""
    with (
        pytest.raises(ConnectionError, match=r"no machine for a worker of 4 CPU .* within 1 s .*`ray status`.*quota"),
        enough_nodes(Nodes(), FOUR_CPUS, print, lambda: None, lambda nodes: None),
    ):
        pass
    assert asked == [[{"CPU": 4}] * 2, []]


def test_a_run_goes_on_with_what_came(asked: list[Any]) -> None:
    said: list[str] = []
    with enough_nodes(Nodes(workers=1), FOUR_CPUS, said.append, lambda: None, lambda nodes: None):
        pass
    assert said[-1] == "after 1 s there is room for 1 of 2 workers; going on with these"


def test_nodes_that_are_there_are_looked_at_before_others_are_waited_for(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONDISTILL_WAIT_FOR_NODES", "3600")

    def look(nodes: Any) -> None:
        assert [node.id for node in nodes] == ["worker0"]  # not the head, which does no work
        raise ValueError("does not see the store")

    with (
        pytest.raises(ValueError, match="does not see"),
        enough_nodes(Nodes(workers=1), FOUR_CPUS, print, lambda: None, look),
    ):
        pass
    assert asked[-1] == []


def test_the_check_asks_the_nodes_that_a_run_would_have(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The head alone says nothing of the machines that come later."""
    cluster = Nodes()

    def gather(ray: Any, wanted: Any, address: str) -> Facts:
        found = tuple(NodeFacts(node.address, node.resources, None, "silent") for node in nodes_of(ray))
        return Facts(address, found, {"versions": {}})

    monkeypatch.setattr("fusiondistill_runner.nodes.connection.connected", lambda: contextlib.nullcontext(cluster))
    monkeypatch.setattr("fusiondistill_runner.nodes.check.gather", gather)
    with pytest.raises(ConnectionError, match="no machine for a worker of 1 CPU"):
        check_cluster(None, (), None, print)
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(cluster, "workers", 1))  # what was asked for comes
    monkeypatch.setenv("FUSIONDISTILL_WAIT_FOR_NODES", "3600")
    complaints = check_cluster(None, (), None, print)
    assert any("node worker0: cannot be asked" in text for text in complaints)
    assert asked == [[{"CPU": 1}], []] * 2
