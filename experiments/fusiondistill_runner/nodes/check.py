"""``fusiondistill cluster check``: asks every node, and says what does not fit before a run starts."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusiondistill import NAME
from fusiondistill.code import code_digest
from fusiondistill.config import Resources
from fusiondistill.counting import counted
from fusiondistill_runner.nodes.cluster import Node, check_together, described, nodes_of, on_node, share_of, slots
from fusiondistill_runner.nodes.node_checks import Needs

__all__ = ["Facts", "NodeFacts", "Wanted", "asked_of", "complaints", "gather", "lines"]

PATIENCE = 600
"""Seconds that a node has to answer; a data set may have to be downloaded there."""
PAYLOAD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Wanted:
    """What a run will need of every node."""

    store: str | None = None
    needs: Needs = field(default_factory=Needs)
    """Data, folders and plugins."""
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class NodeFacts:
    """One live node: what Ray counts on it, and what its probe found (None: no answer, ``error`` says why)."""

    address: str
    resources: Mapping[str, float]
    found: Mapping[str, Any] | None
    error: str = ""


@dataclass(frozen=True)
class Facts:
    """The answers of all nodes."""

    address: str
    nodes: tuple[NodeFacts, ...]
    here: Mapping[str, Any]
    """``versions`` and ``code`` of the machine that asks."""

    @property
    def open(self) -> list[str]:
        """Addresses of the nodes that do not ask for a token."""
        return [node.address for node in self.nodes if node.found is not None and not node.found.get("token")]


def gather(ray: Any, wanted: Wanted, address: str) -> Facts:
    """Ask all live nodes at once.

    Raises:
        OSError: the store cannot be written from here.
    """
    import numpy as np
    from ray import cloudpickle

    from fusiondistill_runner.nodes import probe as cluster_probe

    cloudpickle.register_pickle_by_value(cluster_probe)
    payload = ray.put(np.ones(PAYLOAD_BYTES, np.uint8))
    with _marker(wanted.store) as marker:
        asked = {"store": wanted.store, "marker": marker, **asked_of(wanted.needs)}
        answers = []
        for node in nodes_of(ray):
            there = on_node(node.id)
            probe = ray.remote(cluster_probe.look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            answers.append((node, probe.remote(asked, [payload])))
        nodes = tuple(_answer(ray, node, answer) for node, answer in answers)
    here = {"versions": cluster_probe.versions(), "code": code_digest()}
    return Facts(address, nodes, here)


def asked_of(needs: Needs) -> dict[str, Any]:
    """What a probe has to look for besides the store, as plain values: the project may be missing there."""
    return {
        "data": [(one.label, one.name, one.root, dict(one.parameters)) for one in needs.data],
        "folders": needs.folders,
        "plugins": [(plugin.path, plugin.source) for plugin in needs.plugins],
    }


def _answer(ray: Any, node: Node, answer: Any) -> NodeFacts:
    try:
        found, error = ray.get(answer, timeout=PATIENCE), ""
    except ray.exceptions.GetTimeoutError:
        found, error = None, f"no answer within {PATIENCE} s"
    except ray.exceptions.RayError as problem:
        found, error = None, str(problem).strip().splitlines()[-1]
    return NodeFacts(node.address, node.resources, found, error)


@contextlib.contextmanager
def _marker(location: str | None) -> Iterator[str | None]:
    """Keep a file of a new name in the store while the block runs; leave the store as it was."""
    if location is None:
        yield None
        return
    from fusiondistill.checkpoints import open_location, write_file

    filesystem, root = open_location(location)
    name = f".check-{secrets.token_hex(8)}"
    new = [path for path in (Path(root), *Path(root).parents) if not path.exists()] if "://" not in location else []
    try:
        write_file(filesystem, f"{root}/{name}", name.encode())
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(f"{root}/{name}")
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()


def complaints(facts: Facts, wanted: Wanted) -> list[str]:
    """The problems, each with what to do about it; empty if a run can start."""
    found = []
    if facts.open:
        found.append(
            f"no token is asked for on {', '.join(facts.open)}: any program that reaches these can run code there; "
            "start Ray with RAY_AUTH_MODE=token and a token from `ray get-auth-token --generate`"
        )
    found += _about_room(facts, wanted.resources)
    for node in facts.nodes:
        works = _holds(node, wanted.resources)
        found += [f"node {node.address}: {text}" for text in _about_node(node, facts.here, wanted, works)]
    return found


def _holds(node: NodeFacts, resources: Resources) -> bool:
    """Whether a worker may be placed on a node."""
    needs_gpu = (resources.gpus_per_worker or 0) > 0
    return node.resources.get("CPU", 0) >= resources.cpus_per_worker and (
        not needs_gpu or node.resources.get("GPU", 0) > 0
    )


def _about_room(facts: Facts, resources: Resources) -> list[str]:
    offers = [node.resources for node in facts.nodes]
    try:
        check_together(resources, slots(share_of(resources, offers), offers), f"(nodes: {described(offers)})")
    except ValueError as error:
        return [str(error)]
    return []


def _about_node(node: NodeFacts, here: Mapping[str, Any], wanted: Wanted, works: bool) -> Iterator[str]:
    if node.found is None:
        yield f"cannot be asked ({node.error}): look at its Ray logs; start Ray there with the project's Python"
        return
    there = node.found
    yield from _about_versions(there, here)
    errors = there["errors"]
    if "torch" in errors:
        yield f"torch cannot be used ({errors['torch']}): install the project there again"
    counted, seen = int(node.resources.get("GPU", 0)), len(there.get("gpus", ()))
    if counted > seen and "torch" not in errors:
        why = "its torch is built without CUDA" if there.get("cuda_built") is None else "check the driver (nvidia-smi)"
        yield f"Ray counts {counted} GPUs, torch sees {seen}: {why}"
    store = node.resources.get("object_store_memory", 0)
    if store > there.get("shm_bytes", store):
        yield (
            f"/dev/shm has {there['shm_bytes'] / 2**30:.1f} GiB, the object store {store / 2**30:.1f}: give the "
            "container a larger /dev/shm"
        )
    if "store" in errors:
        yield f"the store {wanted.store} cannot be used ({errors['store']})"
    elif wanted.store and not there["store_seen"]:
        yield f"does not see the store {wanted.store}: give one on a file system that all nodes share, or a bucket"
    if works:
        yield from _about_data(there, wanted.needs)


def _about_versions(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for name, version in here["versions"].items():
        other = there["versions"].get(name)
        if other is None:
            yield f"{name} is not installed (here: {version}): install the project there"
        elif other.partition("+")[0] != version.partition("+")[0]:  # nodes may mix builds for CPU and CUDA
            yield f"has {name} {other}, here it is {version}: install the same on all nodes"
    if NAME in there["versions"] and there.get("code") != here["code"]:
        why = there["errors"].get("code", "other files under the same version")
        yield f"the project's code is not the one here ({why}): install the same on all nodes"


def _about_data(there: Mapping[str, Any], needs: Needs) -> Iterator[str]:
    errors = there["errors"]
    if "cache" in errors:
        yield f"no cache for decoded data ({errors['cache']})"
    if "plugins" in errors:
        yield f"a plugin cannot run there ({errors['plugins']}): install there what the plugin imports"
    for one in needs.data if "plugins" not in errors else ():  # a source may be that plugin's
        if error := errors.get(f"data {one.label}"):
            yield f"the data set {one.label} is not there: {error}"
        elif there["data"].get(one.label) != one.fingerprint:
            yield f"the data set {one.label} is another one than here: copy the same files to every node"
    for folder in there["missing_folders"]:
        yield f"has no folder {folder}: copy it there, or give one on a file system that all nodes share"


def lines(facts: Facts, wanted: Wanted) -> Iterator[str]:
    """The findings, up to two lines for each node."""
    count = counted(len(facts.nodes), "node")
    yield f"{count} at {facts.address}; token authentication {'off' if facts.open else 'on'}"
    yield "here: " + ", ".join(f"{name} {version}" for name, version in facts.here["versions"].items())
    for node in facts.nodes:
        yield f"{node.address}  " + ", ".join(_offer(node))
        if node.found is not None:
            yield "  " + "; ".join(_findings(node.found, wanted))


def _offer(node: NodeFacts) -> Sequence[str]:
    offer = [f"{node.resources.get('CPU', 0):g} CPU", f"{node.resources.get('GPU', 0):g} GPU"]
    offer.append(f"{node.resources.get('memory', 0) / 2**30:.1f} GiB")
    if node.found is not None:
        offer = [node.found["host"], *offer, *node.found.get("gpus", ())]
    return offer


def _findings(there: Mapping[str, Any], wanted: Wanted) -> Iterator[str]:
    if there.get("store_seen"):
        yield f"store: writes {there['store_write'] / 1e6:,.0f} MB/s, reads {there['store_read'] / 1e6:,.0f} MB/s"
    if there.get("object_rate"):
        yield f"object store: {there['object_rate'] / 1e6:,.0f} MB/s"
    if there["data"]:
        yield "data: " + ", ".join(there["data"])
    if "cache" in there:
        yield f"cache: {there['cache']}, {there['cache_free'] / 2**30:.0f} GiB free"
