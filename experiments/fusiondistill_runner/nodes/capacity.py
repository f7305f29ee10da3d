"""Where workers fit: the slots of every node, as nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from fusiondistill.config import Resources
from fusiondistill.counting import counted
from fusiondistill_runner.nodes.cluster import Node, Share, described, nodes_of, share_of, slots, slots_on
from fusiondistill_runner.nodes.node_checks import NodeAnswer, NodeSurvey

__all__ = ["Capacity"]

ANSWER = 180.0
"""Seconds that the driver waits at the start for all nodes to answer; a slower node joins later."""
LONGEST = 900.0
"""Seconds that the driver waits for enough nodes to answer; they may have data to fetch and to decode."""
REFRESH = 1.0
"""Seconds between two looks at the cluster."""


class Capacity:
    """The slots of a cluster for workers of one size.

    Args:
        ray: the connected module.
        resources: what a worker holds, and how many workers there may be.
        survey: asks the nodes whether they can work.
        check: called often during the wait for nodes; may raise to end it.

    Attributes:
        nodes: id of a node that can work -> its slots.
        refused: ids of the nodes that get no work.
        warnings: texts about the nodes that were there at the start.

    Raises:
        ValueError: no node can ever hold a worker, a node does not see the store or lacks the project, or too
            few have the data; the message names them.
        ConnectionError: too few nodes have answered.
    """

    def __init__(self, ray: Any, resources: Resources, survey: NodeSurvey, check: Callable[[], None]) -> None:
        self.ray, self.survey, self.most = ray, survey, resources.workers
        found = nodes_of(ray)
        shapes = [node.resources for node in found]
        self.described = described(shapes)
        self.share: Share = share_of(resources, shapes)
        slots(self.share, shapes)  # raises where none fits
        self.nodes: dict[str, int] = {}
        self.refused: set[str] = set()
        self.looked = time.monotonic()
        answers = self._settled(found, resources.workers_per_run, check)
        lacking = [f"node {node.address}: {answer.lacking}" for node, answer in answers if answer.lacking]
        if lacking and self.slots < resources.workers_per_run:
            raise ValueError("; ".join(["too few nodes can work", *lacking]))
        self.warnings = [text for node, answer in answers for text in _told(node, answer)]

    def _settled(self, found: Sequence[Node], needed: int, check: Callable[[], None]) -> list[tuple[Node, NodeAnswer]]:
        """Wait for the answers of these nodes; after :data:`ANSWER` seconds only until enough can work."""
        answers = []
        while True:
            answers += self._look(found)
            self.survey.require(())
            asked = [answer for _, answer in self.survey.asked.values()]
            waited, enough = time.monotonic() - self.looked, self.slots >= needed
            if enough and (not asked or waited > ANSWER):
                return answers
            silent = [n for n in found if slots_on(self.share, n.resources) and n.id not in self.survey.told]
            if not silent:
                return answers
            if waited > LONGEST:
                raise ConnectionError(
                    f"{counted(len(silent), 'node')} gave no answer within {LONGEST:g} s: look at their Ray logs"
                )
            check()
            if asked:
                self.ray.wait(asked, num_returns=len(asked), timeout=1)
            else:  # answers were lost: those nodes that are still there are asked again
                time.sleep(REFRESH)
                found = nodes_of(self.ray)

    @property
    def slots(self) -> int:
        """How many workers fit at once."""
        count = sum(self.nodes.values())
        return min(count, self.most) if self.most else count

    def refresh(self) -> list[str]:
        """Look at the cluster again, at most once a second; returns the changes in words."""
        if time.monotonic() - self.looked < REFRESH:
            return []
        self.looked = time.monotonic()
        before = set(self.nodes)
        answers = self._look(nodes_of(self.ray))
        news = [f"node {node[:8]} is gone" for node in before - set(self.nodes)]
        for node, answer in answers:
            if node.id in self.nodes:
                news.append(f"node {node.id[:8]} ({node.address}) has joined with {self.nodes[node.id]} slots")
            news += _told(node, answer)
        return news

    def _look(self, found: Sequence[Node]) -> list[tuple[Node, NodeAnswer]]:
        """Ask new nodes, and add those that answered that they can work; returns the new answers."""
        alive = {node.id for node in found}
        self.nodes = {node: count for node, count in self.nodes.items() if node in alive}
        fitting = {node.id: slots_on(self.share, node.resources) for node in found}
        self.survey.ask(node for node in found if fitting[node.id])
        answers = []
        for identity, (node, answer) in self.survey.told.items():
            if identity in self.nodes or identity in self.refused or not fitting.get(identity):
                continue
            if answer.can_work:
                self.nodes[identity] = fitting[identity]
            else:
                self.refused.add(identity)
            answers.append((node, answer))
        return answers


def _told(node: Node, answer: NodeAnswer) -> list[str]:
    """A text about a node that gets no work, or has a warning."""
    where = f"node {node.id[:8]} ({node.address})"
    if answer.refusal:
        return [f"{where} {answer.refusal}: it gets no work"]
    if answer.lacking:
        return [f"{where} gets no work: {answer.lacking}"]
    return [f"{where}: {answer.warning}"] if answer.warning else []
