"""Connecting to Ray, and what the cluster can hold."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiondistill.config import Resources
from fusiondistill_runner.nodes.orphans import reaped
from fusiondistill_runner.nodes.tokens import keep_token_private

__all__ = [
    "Node",
    "Share",
    "connected",
    "described",
    "enough_nodes",
    "labels_of",
    "nodes_of",
    "on_node",
    "patience",
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


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Ray, started here or found through ``RAY_ADDRESS``; ends with the block.

    Yields:
        The module ``ray``.

    Raises:
        ConnectionError: the cluster does not answer.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # One machine: its address is 127.0.0.1, as on macOS and Windows, and all of Ray's ports are bound to that.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        keep_token_private(lambda text: print(text, file=sys.stderr))
        _forget_dead_head()
    else:  # each try takes 40 s where there is no head, or one that does not let us in; Ray's own choice is 20
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A worker group that finds no room waits for it; each time-out counts as a failure of its controller.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3600")
    # Whoever still asks something of Ray after its end (Tune, in a thread) would start another one.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray
    import ray.train.torch

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except Exception as error:  # Ray raises many kinds, a plain Exception when its processes are too slow to start
        hint = "is the cluster up, and do you hold its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)?"
        if address == "local":
            hint = "is the machine very busy, or out of memory or room in its temporary folder?"
        raise ConnectionError(f"no Ray cluster at {address}: {error}; {hint}") from error
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with reaped() if address == "local" else contextlib.nullcontext():
        try:
            yield ray
        finally:
            ray.shutdown()


def _forget_dead_head() -> None:
    """Remove the note of a head that was killed: at each group's end, Ray would try for 12 s to reach it."""
    from ray._common.utils import get_ray_address_file

    note = Path(get_ray_address_file(None))
    with contextlib.suppress(OSError, ValueError):
        host, _, port = note.read_text().strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except ConnectionRefusedError:
            note.unlink()


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
        raise ValueError(
            f"a worker needs {share.cpus:g} CPU and {share.gpus:g} GPU, which no node has (nodes: {described(nodes)}); "
            "lower resources.cpus_per_worker or resources.gpus_per_worker"
        )
    return count


def described(nodes: Sequence[Mapping[str, float]]) -> str:
    """What nodes have, in words."""
    return "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes) or "no nodes"


def patience() -> float:
    """Seconds that a run waits for nodes it asks for (``FUSIONDISTILL_WAIT_FOR_NODES``); 0: the cluster does not grow.

    Raises:
        ValueError: it is no number.
    """
    text = os.environ.get("FUSIONDISTILL_WAIT_FOR_NODES") or "0"
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"FUSIONDISTILL_WAIT_FOR_NODES is {text!r}: give a number of seconds") from None


@contextlib.contextmanager
def enough_nodes(
    ray: Any,
    resources: Resources,
    say: Callable[[str], Any],
    check: Callable[[], None],
    look: Callable[[Sequence[Node]], None],
) -> Iterator[Callable[[], None]]:
    """Where the cluster grows (see :func:`patience`): ask for room for the workers of a run, wait for it, give it back.

    Args:
        say: told what is waited for.
        check: called often; may raise to end the wait.
        look: the same, with the nodes on which a worker fits.

    Yields:
        ``check``, which now gives the room back before it raises: an end in order takes longer than some leave for it.
    """
    if not patience():
        yield check
        return
    from ray.autoscaler.sdk import request_resources

    def give_back() -> None:
        request_resources(bundles=[])  # the request would keep the nodes for ever

    def checked() -> None:
        try:
            check()
        except BaseException:
            with contextlib.suppress(Exception):  # Ray may be gone, and that is not what there is to say
                give_back()
            raise

    wanted = resources.workers or resources.workers_per_run
    share = share_of(resources, [node.resources for node in nodes_of(ray)])
    # Also for room that is there: it keeps idle nodes from leaving.
    request_resources(bundles=[share.resources] * wanted)
    try:
        _wait_for_room(ray, share, wanted, say, check, look)
        yield checked
    finally:
        give_back()


def _wait_for_room(
    ray: Any,
    share: Share,
    wanted: int,
    say: Callable[[str], Any],
    check: Callable[[], None],
    look: Callable[[Sequence[Node]], None],
) -> None:
    worker = f"{share.cpus:g} CPU and {share.gpus:g} GPU"
    limit, told = time.monotonic() + patience(), False
    while True:
        check()
        found = nodes_of(ray)
        fitting = [(node, count) for node in found if (count := slots_on(share, node.resources))]
        look([node for node, _ in fitting])
        room = sum(count for _, count in fitting)
        if room >= wanted:
            return
        if time.monotonic() > limit:
            break
        if not told:
            say(f"asked the cluster for room for {wanted} workers of {worker}")
            told = True
        time.sleep(1)
    if not room:
        raise ConnectionError(
            f"no machine for a worker of {worker} came within {patience():g} s (there are: "
            f"{described([node.resources for node in found])}): see `ray status` and the autoscaler's log "
            "(/tmp/ray/session_latest/logs/monitor.log on the head): quota, image, credentials, and whether any node "
            "type has that much"
        )
    say(f"after {patience():g} s there is room for {room} of {wanted} workers; going on with these")


def nodes_of(ray: Any) -> list[Node]:
    """The live nodes."""
    return [_node(entry) for entry in ray.nodes() if entry["Alive"]]


def _node(entry: Mapping[str, Any]) -> Node:
    return Node(entry["NodeID"], entry["NodeManagerAddress"], entry["NodeManagerPort"], entry["Resources"])


def on_node(node: str) -> Any:
    """The scheduling strategy of what has to run on a node (by id), and fails if that is gone."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def labels_of(node: str | None, refused: Iterable[str]) -> dict[str, str] | None:
    """The label selector of what has to run on a node (by id), or, None, on any but the refused ones."""
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
