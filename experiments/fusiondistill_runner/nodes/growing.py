"""Clusters that grow: asking for nodes, waiting for them, giving them back."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fusiondistill.config import Resources
from fusiondistill.counting import counted
from fusiondistill_runner.nodes.cluster import Node, Share, described, nodes_of, share_of, slots_on

__all__ = ["enough_nodes", "patience"]


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
    """On a cluster that grows (see :func:`patience`), ask for room for a run's workers, wait for it, and give it back.

    Args:
        say: called with a text about the wait.
        check: called often; may raise to end the wait.
        look: called often with the nodes on which a worker fits; may raise as well.

    Yields:
        ``check``, which now gives the room back before it raises, since the process may be killed soon after that.
    """
    if not patience():
        yield check
        return
    from ray.autoscaler.sdk import request_resources

    def give_back() -> None:
        request_resources(bundles=[])  # else the old request keeps the nodes for ever

    def checked() -> None:
        try:
            check()
        except BaseException:
            with contextlib.suppress(Exception):  # Ray may be gone; the error to raise is the check's
                give_back()
            raise

    wanted = resources.workers or resources.workers_per_run
    share = share_of(resources, [node.resources for node in nodes_of(ray)])
    # Asked for even if the room is there: the request keeps idle nodes from leaving.
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
            say(f"asked the cluster for room for {counted(wanted, 'worker')} of {worker}")
            told = True
        time.sleep(1)
    if not room:
        raise ConnectionError(
            f"no machine for a worker of {worker} came within {patience():g} s (there are: "
            f"{described([node.resources for node in found])}): see `ray status` and the autoscaler's log "
            "(/tmp/ray/session_latest/logs/monitor.log on the head): quota, image, credentials, and whether any node "
            "type has that much"
        )
    say(f"after {patience():g} s there is room for {room} of {counted(wanted, 'worker')}; going on with these")
