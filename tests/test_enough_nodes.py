"""Asking a growing cluster for room: what is asked for, what comes of it, that it is given back. No Ray is started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from experiments.cluster import enough_nodes
from fusiondistill.config import Resources


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

    with enough_nodes(Nodes(workers=2), Resources(workers=2, cpus_per_worker=4), print, check) as checked:
        checked()
        assert asked == [[{"CPU": 4}] * 2]
        stopped = True
        with pytest.raises(KeyboardInterrupt):
            checked()
        assert asked[1:] == [[]]  # at once: what follows may be cut short
