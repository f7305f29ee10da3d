"""Whether nodes can work: each is asked, once and where it is, if it sees the store and has the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fusiondistill.locations import open_location, read_whole
from fusiondistill_runner.nodes.cluster import Node, on_node

__all__ = ["DataSet", "Fitness", "Landmark", "Needs", "Survey"]

HINT = "give a --store that all nodes share, and install the project on each (`fusiondistill cluster check` asks them)"


@dataclass(frozen=True)
class Landmark:
    """A file of the store that a node must read with this content if it is to do any work."""

    store: str
    path: str
    """In the store's file system."""
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """A data set that nodes have to hold."""

    name: str
    root: str | None
    """Absolute; None: the data set's own place."""
    fingerprint: str
    """As it is here."""

    @property
    def label(self) -> str:
        """Name and place."""
        return f"{self.name} ({self.root})" if self.root else self.name


@dataclass(frozen=True)
class Needs:
    """What a run needs of every node that works for it."""

    landmark: Landmark | None = None
    data: tuple[DataSet, ...] = ()
    folders: tuple[str, ...] = ()
    """That must be there."""


class Fitness(NamedTuple):
    """What a node says of itself; each a text, "" where there is nothing to say."""

    stranger: str = ""
    """Why it belongs to another cluster than the store: a run that starts is refused."""
    lacking: str = ""
    """What it has not got of the data: others may."""
    warning: str = ""

    @property
    def fit(self) -> bool:
        """Whether it can work."""
        return not (self.stranger or self.lacking)


def look(needs: Needs, gpus: int) -> Fitness:
    """What this machine, on which Ray counts so many GPUs, has of what is needed; decodes the images into its cache."""
    if stranger := _not_seen(needs.landmark):
        return Fitness(stranger=stranger)
    if lacking := _lacking(needs):
        return Fitness(lacking=lacking)
    if gpus:
        import torch

        if not torch.cuda.is_available():
            return Fitness(
                warning=f"Ray counts {gpus} GPUs there, torch sees none: it works on its CPU (see nvidia-smi)"
            )
    return Fitness()


def _not_seen(landmark: Landmark | None) -> str:
    if landmark is None:
        return ""
    try:
        content = read_whole(open_location(landmark.store)[0], landmark.path)
    except (OSError, ValueError) as error:
        return f"cannot read the store: {error}"
    if content is None:
        return f"does not see the store (no {landmark.path} there)"
    if hashlib.sha256(content).hexdigest() != landmark.sha256:
        return f"does not see the store (another {landmark.path} lies there)"
    return ""


def _lacking(needs: Needs) -> str:
    for folder in needs.folders:
        if not Path(folder).is_dir():
            return f"it has no folder {folder}: copy it there, or give one on a file system that all nodes share"
    if needs.data:  # a start on one machine, which has no such question, does not wait for torch
        from fusiondistill.data import SPLITS, DataError
        from fusiondistill_runner.working.materials import load_split

        try:
            for one in needs.data:
                for split in SPLITS:
                    load_split(one.name, split, one.root, one.fingerprint)
        except (DataError, OSError) as error:
            return str(error)
    return ""


@dataclass
class Survey:
    """Asks nodes what they say of themselves.

    Args:
        ray: the connected module.
        needs: what they are asked for.

    Attributes:
        asked: id of a node that has not answered yet -> itself and the reference of its answer.
        told: id -> the node and its answer.
    """

    ray: Any
    needs: Needs
    asked: dict[str, tuple[Node, Any]] = field(default_factory=dict)
    told: dict[str, tuple[Node, Fitness]] = field(default_factory=dict)

    def ask(self, nodes: Iterable[Node]) -> None:
        """Ask those that have not been asked yet, and take in the answers that there are."""
        for node in nodes:
            if node.id not in self.asked and node.id not in self.told:
                there = self.ray.remote(look).options(num_cpus=0, scheduling_strategy=on_node(node.id), max_retries=0)
                self.asked[node.id] = (node, there.remote(self.needs, int(node.resources.get("GPU", 0))))
        for node, answer in list(self.asked.values()):
            if not self.ray.wait([answer], timeout=0)[0]:
                continue
            del self.asked[node.id]
            try:
                self.told[node.id] = (node, self.ray.get(answer))
            except self.ray.exceptions.RayTaskError as error:
                reason = str(error).strip().splitlines()[-1]
                self.told[node.id] = (node, Fitness(stranger=f"cannot run the project ({reason})"))
            except self.ray.exceptions.RayError:  # it went as it came
                continue

    def screen(self, nodes: Iterable[Node]) -> None:
        """Ask them, before a run starts; refuse that where a node has turned out not to belong to the store.

        Raises:
            ValueError: says which and why.
        """
        self.ask(nodes)
        found = [f"node {node.address} {fitness.stranger}" for node, fitness in self.told.values() if fitness.stranger]
        if found:
            raise ValueError("; ".join([*found, HINT]))
