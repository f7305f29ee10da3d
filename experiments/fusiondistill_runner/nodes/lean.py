"""A Ray of the driver's own with fewer processes: its start takes a third of the time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

__all__ = ["lean_start"]


@contextlib.contextmanager
def lean_start() -> Iterator[None]:
    """While Ray starts, leave out what a dashboard, an autoscaler and workers' output on the terminal need.

    ``ray.init`` waits for the dashboard's server even where there is no dashboard, and then for a node's agent that
    loads its modules. Nothing on one machine asks them. Ray has no setting for this, so functions of the versions that
    the project admits are replaced; as if Ray were installed without its extra ``default``. One that a Ray lacks is
    left alone, which costs time and nothing else.
    """
    from ray._private import utils
    from ray._private.node import Node

    replaced: list[tuple[Any, str, Any]] = [
        (Node, "start_api_server", lambda self, **_: None),
        (Node, "start_monitor", lambda self: None),
        (Node, "start_log_monitor", lambda self: None),
        (utils, "get_dashboard_dependency_error", lambda: ImportError("left out")),
    ]
    with contextlib.ExitStack() as stack:
        for where, name, function in replaced:
            if (before := getattr(where, name, None)) is not None:
                stack.callback(setattr, where, name, before)
                setattr(where, name, function)
        yield
