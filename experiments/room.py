"""Where workers fit: the slots of every node, as nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from experiments.cluster import Landmark, Node, Share, described, nodes_of, probe, share_of, slots, slots_on
from fusiondistill.config import Resources

__all__ = ["Free", "Room"]

ANSWER = 180.0
"""Seconds that a start waits for the nodes of a cluster to say whether they can work."""
REFRESH = 1.0
"""Seconds between two looks at the cluster."""
HINT = "give a --store that all nodes share, and install the project on each (`fusiondistill cluster check` asks them)"


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
        landmark: what every node must be able to read; None: nothing.

    Attributes:
        warnings: what there is to say about the nodes that were there at the start.

    Raises:
        ValueError: no node can ever hold a worker, or some cannot read the landmark or lack the project; says which.
    """

    def __init__(self, ray: Any, resources: Resources, landmark: Landmark | None) -> None:
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
        asked = [answer for _, answer in self.probes.values()]
        ray.wait(asked, num_returns=len(asked), timeout=ANSWER)  # who takes longer joins later
        answers = self._admit()
        if refusals := [f"node {node.address} {refusal}" for node, refusal, _ in answers if refusal]:
            raise ValueError("; ".join([*refusals, HINT]))
        self.warnings = [_warned(node, warning) for node, _, warning in answers if warning]

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
        for node, refusal, warning in self._admit():
            if refusal:
                news.append(f"node {node.id[:8]} ({node.address}) {refusal}: it gets no work")
            else:
                news.append(f"node {node.id[:8]} ({node.address}) has joined with {self.nodes[node.id]} slots")
                news += [_warned(node, warning)] if warning else []
        return news

    def _look(self, found: Sequence[Node]) -> None:
        alive = {node.id for node in found}
        self.nodes = {node: count for node, count in self.nodes.items() if node in alive}
        for node in found:
            if node.id in self.nodes or node.id in self.probes or node.id in self.refused:
                continue
            if slots_on(self.share, node.resources):
                self.probes[node.id] = (node, probe(self.ray, node, self.landmark))

    def _admit(self) -> list[tuple[Node, str, str]]:
        """Take in the new nodes that say they can work; returns each with its refusal or its warning."""
        answers = []
        for node, answer in list(self.probes.values()):
            if not self.ray.wait([answer], timeout=0)[0]:
                continue
            del self.probes[node.id]
            try:
                refusal, warning = self.ray.get(answer)
            except self.ray.exceptions.RayTaskError as error:
                refusal, warning = f"cannot run the project ({str(error).strip().splitlines()[-1]})", ""
            except self.ray.exceptions.RayError:  # it went as it came
                continue
            if refusal:
                self.refused.add(node.id)
            else:
                self.nodes[node.id] = slots_on(self.share, node.resources)
            answers.append((node, refusal, warning))
        return answers

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


def _warned(node: Node, warning: str) -> str:
    return f"node {node.id[:8]} ({node.address}): {warning}"
