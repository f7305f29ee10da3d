"""Connects to Ray, such that neither files in the user's folder nor an earlier Ray can disturb a run."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from fusiondistill_runner.nodes.lean import lean_start
from fusiondistill_runner.nodes.orphans import reaped
from fusiondistill_runner.nodes.sockets import socket_folder
from fusiondistill_runner.nodes.tokens import keep_token_private

__all__ = ["cluster_address", "connected"]


def cluster_address() -> str | None:
    """The address of the user's Ray cluster (``RAY_ADDRESS``); None: the driver starts its own Ray."""
    return os.environ.get("RAY_ADDRESS") or None


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Ray, started here or found through ``RAY_ADDRESS``; ends with the block.

    Yields:
        The module ``ray``.

    Raises:
        ConnectionError: the cluster does not answer.
    """
    address = cluster_address() or "local"
    with socket_folder() if address == "local" else contextlib.nullcontext():
        yield from _connected(address)


def _connected(address: str) -> Iterator[Any]:
    _set_environment(address)
    import ray

    # Beside ray.init, which waits for other processes most of the time.
    ahead = ThreadPoolExecutor(1).submit(import_module, "ray.train.torch")
    try:
        with lean_start() if address == "local" else contextlib.nullcontext():
            ray.init(
                address=address,
                job_config=_without_folders(ray.job_config.JobConfig()),
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
    except Exception as error:  # Ray raises many kinds, a plain Exception when its processes are too slow to start
        hint = "is the cluster up, and do you hold its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)?"
        if address == "local":
            hint = (
                "is the machine very busy, or out of memory or of room in its temporary folder (TMPDIR)? With --local "
                "a run does without Ray"
            )
        raise ConnectionError(f"no Ray cluster at {address}: {error}; {hint}") from error
    ahead.result()
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with reaped() if address == "local" else contextlib.nullcontext():
        try:
            yield ray
        finally:
            ray.shutdown()


def _set_environment(address: str) -> None:
    """Set the variables that Ray reads, where the user has not set them."""
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # Ray then binds all its ports to 127.0.0.1, as on macOS and Windows.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Python programs that Ray starts must not import modules that lie in the current folder.
        os.environ["PYTHONSAFEPATH"] = "1"
        # No node of it is ever drained: an actor that asks for that every 5 s would be one process more for each fit.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC", "0")  # as Ray Train sets it for its controllers
        keep_token_private(lambda text: print(text, file=sys.stderr))
        _forget_dead_head()
    else:  # a try takes 40 s where no head answers or the token is wrong; Ray's default is 20 tries
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A worker group that finds no room shall wait: each time-out would count as a failure of its controller.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3600")
    # A thread of the driver that asks Ray something after Ray's end would start another Ray.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")


class _Nothing(list[str]):
    """A list that stays empty."""

    def extend(self, items: Iterable[str]) -> None:
        """Take nothing."""


def _without_folders(job: Any) -> Any:
    """A job config that keeps the driver's folders off the workers' ``sys.path``.

    ``ray.init`` adds the driver's current folder and its script's folder to this list, and each worker puts the list
    before the standard library: a user's ``queue.py`` there would end every worker. The ``--working-dir`` of a
    submitted job is not affected: Ray puts it into the workers' ``PYTHONPATH``.
    """
    job._py_driver_sys_path = _Nothing()
    return job


def _forget_dead_head() -> None:
    """Remove the address file of a killed head, which Ray would try to reach for 12 s at each group's end."""
    from ray._common.utils import get_ray_address_file

    note = Path(get_ray_address_file(None))
    with contextlib.suppress(OSError, ValueError):
        host, _, port = note.read_text().strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except ConnectionRefusedError:
            note.unlink()
