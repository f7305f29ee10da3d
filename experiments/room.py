"""Where workers fit: the slots of every node, as nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from experiments.cluster import Node, Share, described, nodes_of, probe, share_of, slots, slots_on
from fusiondistill.config import Resources

__all__ = ["Free", "Room"]

ANSWER = 180.0
"""Seconds in which the nodes of a cluster have said whether they see the store."""
REFRESH = 1.0
"""Seconds between two looks at the cluster."""


class Holder(Protocol):
    """Something that holds slots, on one node or (None) wherever Ray put it."""

    node: str | None
    slots: int


@dataclass(frozen=True)
class Free:
    """What may be started now: ``total`` slots, of which at most so many on each node (by id), the emptiest first."""

    total: int
    on: dict[str, int]


class Room:
    """The slots of a cluster for workers of one size.

    Args:
        ray: the connected module.
        resources: what a worker holds, and how many there may be.
        landmark: a file that every node must see (part of the store); None: nothing to look for.

    Raises:
        ValueError: no node can ever hold a worker, or nodes do not see the landmark; says what there is.
    """

    def __init__(self, ray: Any, resources: Resources, landmark: str | None) -> None:
        self.ray, self.landmark, self.most = ray, landmark, resources.workers
        found = nodes_of(ray)
        shapes = [node.resources for node in found]
        self.described = described(shapes)
        self.share: Share = share_of(resources, shapes)
        slots(self.share, shapes)  # raises where none fits
        self.nodes: dict[str, int] = {}
        self.probes: dict[str, tuple[Node, Any]] = {}
        self.refused: set[str] = set()
        self.looked = time.monotonic()
        self._look(found)
        answers = [answer for _, answer in self.probes.values()]
        ray.wait(answers, num_returns=len(answers), timeout=ANSWER)  # who takes longer joins later
        self._admit()
        blind = [node.address for node in found if node.id in self.refused]
        if blind:
            raise ValueError(
                f"nodes {', '.join(blind)} do not see the store (no {landmark} there): "
                "give a --store on a file system that all nodes share, or a bucket"
            )

    @property
    def slots(self) -> int:
        """How many workers fit at once."""
        count = sum(self.nodes.values())
        return min(count, self.most) if self.most else count

    def refresh(self) -> list[str]:
        """Look at the cluster again, if it is time; returns what changed, in words."""
        if time.monotonic() - self.looked < REFRESH:
            return []
        self.looked = time.monotonic()
        before = set(self.nodes)
        self._look(nodes_of(self.ray))
        news = [f"node {node[:8]} is gone" for node in before - set(self.nodes)]
        return news + self._admit()

    def _look(self, found: Sequence[Node]) -> None:
        alive = {node.id for node in found}
        self.nodes = {node: count for node, count in self.nodes.items() if node in alive}
        for node in found:
            if node.id in self.nodes or node.id in self.probes or node.id in self.refused:
                continue
            if slots_on(self.share, node.resources):
                self.probes[node.id] = (node, probe(self.ray, node, self.landmark))

    def _admit(self) -> list[str]:
        """Take in the new nodes that have said whether they see the store."""
        news = []
        for node, answer in list(self.probes.values()):
            if not self.ray.wait([answer], timeout=0)[0]:
                continue
            del self.probes[node.id]
            try:
                sees = self.ray.get(answer)
            except Exception:  # it went as it came
                continue
            if sees:
                self.nodes[node.id] = slots_on(self.share, node.resources)
                news.append(f"node {node.id[:8]} ({node.address}) has joined with {self.nodes[node.id]} slots")
            else:
                self.refused.add(node.id)
                news.append(f"node {node.id[:8]} ({node.address}) does not see the store: it gets no work")
        return news

    def free(self, holders: Iterable[Holder]) -> Free:
        """What is left beside those that hold slots."""
        held, pinned = 0, dict.fromkeys(self.nodes, 0)
        for holder in holders:
            held += holder.slots
            if holder.node in pinned:
                pinned[holder.node] += holder.slots
        on = {node: count - pinned[node] for node, count in self.nodes.items()}
        ordered = sorted((node for node in on if on[node] > 0), key=lambda node: (-on[node], node))
        return Free(max(0, self.slots - held), {node: on[node] for node in ordered})
