"""Notices that a run's Ray is gone, and ends the run with a clear message.

Ray itself ends the process, at once or after a minute, with a page of its log. Until then no call to the head returns,
so the driver's own thread cannot report it.
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
"""Seconds without an answer after which a process of this machine counts as gone."""
LATE = 45.0
"""The same for the head of a cluster that others operate and may start again; Ray itself gives up after 60."""

Address = tuple[str, int]


class Watch:
    """While entered, connects to Ray's head and to this node's raylet every quarter of a second.

    Args:
        ray: the connected module.
        ours: whether this process started the cluster; then no other program starts its head again.
        lost: called from a thread with the name of what is gone; must end the process.
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
            time.sleep(2 * SOON)  # Ray is gone: the thread ends the process with a clearer message
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
    """Whether a process takes connections there. On this machine a slow one counts as busy, not as gone."""
    try:
        socket.create_connection(address, timeout=2).close()
    except TimeoutError:
        return patience <= SOON
    except OSError:
        return False
    return True
