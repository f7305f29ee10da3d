"""The nodes of a Ray cluster, and how many workers of one size fit on them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusiondistill.config import Resources
from fusiondistill.counting import counted

__all__ = [
    "Node",
    "Share",
    "check_here",
    "check_together",
    "described",
    "labels_of",
    "nodes_of",
    "on_node",
    "refuse_fleeting",
    "share_of",
    "slots",
    "slots_on",
]

NODE = "ray.io/node-id"
"""The label that Ray gives every node."""


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
    """A live node: its id, its address, its raylet's port, and what Ray counts on it."""

    id: str
    address: str
    port: int
    resources: Mapping[str, float]


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
        ValueError: no node can ever hold a worker; the message says what the nodes have.
    """
    count = sum(slots_on(share, node) for node in nodes)
    if count == 0:
        raise ValueError(
            f"a worker needs {share.cpus:g} CPU and {share.gpus:g} GPU, which no node has (nodes: {described(nodes)}); "
            "lower resources.cpus_per_worker or resources.gpus_per_worker"
        )
    return count


def check_here(resources: Resources) -> None:
    """Refuse a worker that this machine can never hold, before its own Ray starts and before the store is touched.

    Raises:
        ValueError: as :func:`slots`; or one training needs more workers than fit.
    """
    import torch

    here = [{"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}]
    check_together(resources, slots(share_of(resources, here), here), f"(nodes: {described(here)})")


def check_together(resources: Resources, room: int, where: str) -> None:
    """Raise ValueError where the workers of one training are more than ``room``, which is there ``where``."""
    if resources.workers_per_run > room:
        raise ValueError(
            f"resources.workers_per_run is {resources.workers_per_run}, but only "
            f"{counted(room, 'worker fits', 'workers fit')} {where}; lower it, or what a worker holds (resources)"
        )


def described(nodes: Sequence[Mapping[str, float]]) -> str:
    """The CPUs and GPUs of nodes, in words."""
    return "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes) or "no nodes"


def nodes_of(ray: Any) -> list[Node]:
    """The live nodes."""
    return [_node(entry) for entry in ray.nodes() if entry["Alive"]]


def _node(entry: Mapping[str, Any]) -> Node:
    return Node(entry["NodeID"], entry["NodeManagerAddress"], entry["NodeManagerPort"], entry["Resources"])


def on_node(node: str) -> Any:
    """The scheduling strategy of a task that must run on a node (by id), and fails if that is gone."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def labels_of(node: str | None, refused: Iterable[str]) -> dict[str, str] | None:
    """The label selector of work that must run on a node (by id); where that is None, on any but the refused nodes."""
    if node is not None:
        return {NODE: node}
    avoided = sorted(refused)
    return {NODE: f"!in({', '.join(avoided)})"} if avoided else None


def refuse_fleeting(store: str) -> None:
    """Refuse a store in the copy of the working directory that a submitted job runs in: Ray deletes it.

    Raises:
        ValueError: it lies there.
    """
    if "/runtime_resources/working_dir_files/" in store:
        raise ValueError(
            f"the store {store} lies in the job's copy of the working directory, which Ray deletes after the job: "
            "give --store an absolute path on a file system that all nodes share, or a bucket"
        )
