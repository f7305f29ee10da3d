"""Whether nodes can work: a task on each node checks once whether it sees the store, runs the plugins, has the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fusiondistill.locations import open_location, read_whole
from fusiondistill.plugins import PluginError, blamed, load_plugins
from fusiondistill.registry import Plugin, WrongResult
from fusiondistill_runner.nodes.cluster import Node, on_node
from fusiondistill_runner.planning.specs import EvaluateSpec, SearchSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.working.context import Context, DataSet

__all__ = ["KnownFile", "Needs", "NodeAnswer", "NodeSurvey", "look", "needs_of"]

MOST_LOST = 5
"""How often a node is asked whose answer is lost."""
HINT = "give a --store that all nodes share, and install the project on each (`fusiondistill cluster check` asks them)"


@dataclass(frozen=True)
class KnownFile:
    """A file of the store that a node must read with this content before it gets work."""

    store: str
    path: str
    """In the store's file system."""
    sha256: str


@dataclass(frozen=True)
class Needs:
    """What a run needs of every node that works for it."""

    store_file: KnownFile | None = None
    data: tuple[DataSet, ...] = ()
    folders: tuple[str, ...] = ()
    """Folders that must exist."""
    plugins: tuple[Plugin, ...] = ()
    """The run's plugins; a node runs them before it looks for the data."""


def needs_of(context: Context, stages: Iterable[Stage], store_file: KnownFile | None = None) -> Needs:
    """What stages need of every node that does them.

    Args:
        context: of the run; it knows where the data lie, and the plugins.
        store_file: see :class:`Needs`.
    """
    specs = [stage.spec for stage in stages]
    data = dict.fromkeys((spec.train if isinstance(spec, SearchSpec) else spec).data for spec in specs)
    corrupted = {spec.corruption for spec in specs if isinstance(spec, EvaluateSpec)} - {None}
    return Needs(
        store_file,
        tuple(dict.fromkeys(DataSet.of(one, context.root(one)) for one in data)),
        tuple(sorted({context.corruption_folder(digest) for digest in corrupted if digest})),
        context.plugins,
    )


class NodeAnswer(NamedTuple):
    """A node's answer; each field is a text, "" where there is no problem."""

    refusal: str = ""
    """Why no run may start while the node is there: it does not see the store, or cannot run the project."""
    lacking: str = ""
    """Which data the node lacks, or which plugin cannot run there. Other nodes may have them."""
    warning: str = ""

    @property
    def can_work(self) -> bool:
        """Whether the node can work."""
        return not (self.refusal or self.lacking)


def look(needs: Needs, gpus: int) -> NodeAnswer:
    """Check this machine for what is needed: run the plugins, and decode the images into its cache.

    Args:
        gpus: how many GPUs Ray counts on this machine.
    """
    if refusal := _not_seen(needs.store_file):
        return NodeAnswer(refusal=refusal)
    if lacking := _lacking(needs):
        return NodeAnswer(lacking=lacking)
    if gpus:
        import torch

        if not torch.cuda.is_available():
            return NodeAnswer(
                warning=f"Ray counts {gpus} GPUs there, torch sees none: it works on its CPU (see nvidia-smi)"
            )
    return NodeAnswer()


def _not_seen(file: KnownFile | None) -> str:
    if file is None:
        return ""
    try:
        content = read_whole(open_location(file.store)[0], file.path)
    except (OSError, ValueError) as error:
        return f"cannot read the store: {error}"
    if content is None:
        return f"does not see the store (no {file.path} there)"
    if hashlib.sha256(content).hexdigest() != file.sha256:
        return f"does not see the store (another {file.path} lies there)"
    return ""


def _lacking(needs: Needs) -> str:
    for folder in needs.folders:
        if not Path(folder).is_dir():
            return f"it has no folder {folder}: copy it there, or give one on a file system that all nodes share"
    try:
        load_plugins(needs.plugins)
    except PluginError as error:
        return f"{error}; install there what the plugin imports"
    if needs.data:  # empty on one machine, whose start need not wait for torch
        from fusiondistill.data import DataError
        from fusiondistill_runner.working.data import load_all

        try:
            for one in needs.data:
                load_all(one)
        except Exception as error:  # a plugin's source can raise anything
            known = isinstance(error, DataError | OSError | WrongResult)
            if said := blamed(error) or (str(error) if known else ""):
                return said
            raise
    return ""


@dataclass
class NodeSurvey:
    """Asks each node once whether it can work.

    Args:
        ray: the connected module.
        needs: what a node must have.
        here: whether the only node is this machine, so that this process can answer for it.

    Attributes:
        asked: id of a node that has not answered yet -> the node and the reference of its answer.
        told: id -> the node and its answer.
        lost: id -> how often the process ended that looked there, as where a job before was stopped.
    """

    ray: Any
    needs: Needs
    here: bool = False
    asked: dict[str, tuple[Node, Any]] = field(default_factory=dict)
    told: dict[str, tuple[Node, NodeAnswer]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def ask(self, nodes: Iterable[Node]) -> None:
        """Ask the nodes that have not been asked yet, and take in the answers that have come."""
        for node in nodes:
            if node.id in self.asked or node.id in self.told:
                continue
            gpus = int(node.resources.get("GPU", 0))
            if self.here:
                self.told[node.id] = node, look(self.needs, gpus)
                continue
            there = self.ray.remote(look).options(num_cpus=0, scheduling_strategy=on_node(node.id), max_retries=0)
            self.asked[node.id] = (node, there.remote(self.needs, gpus))
        for node, answer in list(self.asked.values()):
            if not self.ray.wait([answer], timeout=0)[0]:
                continue
            del self.asked[node.id]
            try:
                self.told[node.id] = (node, self.ray.get(answer))
            except self.ray.exceptions.RayTaskError as error:
                reason = str(error).strip().splitlines()[-1]
                self.told[node.id] = (node, NodeAnswer(refusal=f"cannot run the project ({reason})"))
            except self.ray.exceptions.RayError as error:  # the node is gone again, or the process that looked there
                self.lost[node.id] = self.lost.get(node.id, 0) + 1
                if self.lost[node.id] == MOST_LOST:
                    ended = f"the process that looked there ended {MOST_LOST} times ({type(error).__name__})"
                    self.told[node.id] = (node, NodeAnswer(refusal=f"cannot run the project: {ended}"))

    def require(self, nodes: Iterable[Node]) -> None:
        """Ask nodes before a run starts.

        Raises:
            ValueError: a node that has answered forbids the start; the message names it and says why.
        """
        self.ask(nodes)
        found = [f"node {node.address} {answer.refusal}" for node, answer in self.told.values() if answer.refusal]
        if found:
            raise ValueError("; ".join([*found, HINT]))
