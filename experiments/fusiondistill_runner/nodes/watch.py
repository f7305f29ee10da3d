"""Notices that the Ray that a run stands on is gone, and ends the run clearly.

Ray's own answer is to end the process, after a minute or at once, with a page of its log. Until then whatever the
driver asks of the head never returns, so nothing in the driver's own thread could say what happened.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from fusiondistill_runner.nodes.cluster import nodes_of

__all__ = ["Watch"]

INTERVAL = 0.25
"""Seconds between two looks."""
SOON = 0.7
"""Seconds without an answer after which something on this machine is gone."""
LATE = 45.0
"""The same for the head of a cluster that others run, who may start it again; Ray itself gives up after 60."""

Address = tuple[str, int]


class Watch:
    """While entered, connects again and again to Ray's head and to this node's raylet.

    Args:
        ray: the connected module.
        ours: whether this process started the cluster, so that no other program starts its head again.
        lost: called with what is gone, from a thread, when nothing can be done about it; must end the process.
    """

    def __init__(self, ray: Any, ours: bool, lost: Callable[[str], Any]) -> None:
        context = ray.get_runtime_context()
        here = next(node for node in nodes_of(ray) if node.id == context.get_node_id())
        host, _, port = context.gcs_address.rpartition(":")
        self.patience: dict[tuple[str, Address], float] = {
            ("Ray's head (gcs_server)", (host.strip("[]"), int(port))): SOON if ours else LATE,
            ("the raylet of this node", (here.address, here.port)): SOON,
        }
        self.lost = lost
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not all(_answers(*entry) for entry in self._places()):
            time.sleep(2 * SOON)  # Ray is gone: the thread has the better words, and ends it all
        self.over.set()
        self.thread.join()

    def _places(self) -> list[tuple[Address, float]]:
        return [(address, patience) for (_, address), patience in self.patience.items()]

    def _watch(self) -> None:
        heard = dict.fromkeys(self.patience, time.monotonic())
        while not self.over.wait(INTERVAL):
            for (what, address), patience in self.patience.items():
                if _answers(address, patience):
                    heard[what, address] = time.monotonic()
                elif time.monotonic() - heard[what, address] > patience:
                    host, port = address
                    self.lost(f"{what} at {host}:{port} is gone")
                    return


def _answers(address: Address, patience: float) -> bool:
    """Whether something takes connections there. On this machine, a process that is slow to do so is busy, not gone."""
    try:
        socket.create_connection(address, timeout=2).close()
    except TimeoutError:
        return patience <= SOON
    except OSError:
        return False
    return True
