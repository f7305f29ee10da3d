"""Connecting to Ray, and what the cluster can hold."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiondistill.config import Resources

__all__ = ["Node", "Share", "autoscaled", "connected", "nodes_of", "probe", "share_of", "slots", "slots_on"]


@dataclass(frozen=True)
class Share:
    """What one worker reserves."""

    cpus: float
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """As Ray counts them."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


@dataclass(frozen=True)
class Node:
    """A live node: its id, its address, and what Ray counts on it."""

    id: str
    address: str
    resources: Mapping[str, float]


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Ray, started here or found through ``RAY_ADDRESS``; ends with the block.

    Yields:
        The module ``ray``.

    Raises:
        ConnectionError: the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A worker group that finds no room waits for it; each time-out counts as a failure of its controller.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3600")
    import ray
    import ray.train.torch

    address = os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except (ConnectionError, RuntimeError) as error:
        hint = "is the cluster up, and do you hold its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)?"
        raise ConnectionError(f"no Ray cluster at {address}: {error}; {hint}") from error
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def share_of(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> Share:
    """What a worker reserves on these nodes: with ``gpus_per_worker`` unset, a GPU if there is one anywhere."""
    gpus = resources.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    return Share(resources.cpus_per_worker, gpus)


def slots_on(share: Share, node: Mapping[str, float]) -> int:
    """How many workers fit on a node at once."""
    by_cpu = int(node.get("CPU", 0) / share.cpus + 1e-9)
    if not share.gpus:
        return by_cpu
    # Fractions of a GPU are packed into whole ones: three workers of 0.4 need two GPUs.
    whole = int(node.get("GPU", 0))
    by_gpu = whole * int(1 / share.gpus + 1e-9) if share.gpus <= 1 else int(whole / share.gpus)
    return min(by_cpu, by_gpu)


def slots(share: Share, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers fit on these nodes at once; each lies on one node.

    Raises:
        ValueError: no node can ever hold one; says what the nodes have.
    """
    count = sum(slots_on(share, node) for node in nodes)
    if count == 0:
        have = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes) or "no nodes"
        raise ValueError(
            f"a worker needs {share.cpus:g} CPU and {share.gpus:g} GPU, which no node has (nodes: {have}); "
            "lower resources.cpus_per_worker or resources.gpus_per_worker"
        )
    return count


def nodes_of(ray: Any) -> list[Node]:
    """The live nodes."""
    return [Node(n["NodeID"], n["NodeManagerAddress"], n["Resources"]) for n in ray.nodes() if n["Alive"]]


def autoscaled(ray: Any) -> Mapping[str, float] | None:
    """What an autoscaler may bring the whole cluster to, by resource; None without one.

    Ray has no public name for this: where the private one is missing, there is no autoscaler for us.
    """
    from ray._private import state

    try:
        most = state.state.get_max_resources_from_cluster_config()
    except AttributeError:
        return None
    return {name: float(amount) for name, amount in most.items()} if most else None


def probe(ray: Any, node: Node, path: str | None) -> Any:
    """Ask a node whether it sees a file (None: whether it answers); returns the reference of the answer."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(_sees).options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote(path)


def _sees(path: str | None) -> bool:
    return path is None or Path(path).exists()
