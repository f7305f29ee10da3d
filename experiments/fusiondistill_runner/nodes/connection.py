"""Connecting to Ray, so that neither the user's folder nor a Ray of before can disturb a run."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fusiondistill_runner.nodes.orphans import reaped
from fusiondistill_runner.nodes.tokens import keep_token_private

__all__ = ["connected"]


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Ray, started here or found through ``RAY_ADDRESS``; ends with the block.

    Yields:
        The module ``ray``.

    Raises:
        ConnectionError: the cluster does not answer.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    _set_environment(address)
    import ray
    import ray.train.torch

    try:
        ray.init(
            address=address,
            job_config=_without_folders(ray.job_config.JobConfig()),
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
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


def _set_environment(address: str) -> None:
    """What Ray reads from the environment, where the user has not set it."""
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # One machine: its address is 127.0.0.1, as on macOS and Windows, and all of Ray's ports are bound to that.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Python programs that Ray starts must not import modules that lie in the current folder.
        os.environ["PYTHONSAFEPATH"] = "1"
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
    # Tune still asks something of Ray, in a thread, after Ray's end: that would start another Ray.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")


class _Nothing(list[str]):
    """A list that stays empty."""

    def extend(self, items: Iterable[str]) -> None:
        """Take nothing."""


def _without_folders(job: Any) -> Any:
    """A job config that keeps the driver's folders off the workers' ``sys.path``.

    ``ray.init`` extends this list by the driver's current folder and its script's folder, and each worker puts what it
    holds before the standard library: a user's ``queue.py`` there would end every worker. A submitted job's
    ``--working-dir`` does not go this way (Ray puts it into the workers' ``PYTHONPATH``).
    """
    job._py_driver_sys_path = _Nothing()
    return job


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
