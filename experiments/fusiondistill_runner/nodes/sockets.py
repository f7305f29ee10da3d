"""Where the Ray that a run starts keeps its sockets: a socket's path has at most 107 bytes."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["socket_folder"]

LONGEST = 107
"""Bytes of a socket's path on Linux; other systems take 103."""
BELOW = len("/ray/session_2026-11-28_21-00-37_123456_1234567/sockets/plasma_store.123")
"""What Ray puts below the folder of temporary files."""
_VARIABLES = ("RAY_TMPDIR", "TMPDIR")
"""Where Ray's own files go, and those of Python's libraries in Ray's processes."""
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # a folder of a new name is made there, for this user alone


@contextlib.contextmanager
def socket_folder() -> Iterator[None]:
    """Let Ray's processes keep their sockets in a folder that will do, during the block.

    What ``RAY_TMPDIR`` and ``TMPDIR`` name will not do where it is too long, no folder, takes no files of this user, or
    lies on a file system without sockets (SMB, 9p, FAT, mounted buckets).
    Both then name a new folder with a short path, which goes with the block.

    Raises:
        PermissionError: no short folder takes files; the message names the variable to set.
    """
    given = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    if all(_will_do(Path(folder)) for folder in given.values() or _SHORT[:1]):
        yield
        return
    short = next((folder for folder in _SHORT if _will_do(Path(folder))), None)
    if short is None:
        raise PermissionError(
            f"Ray's files fit neither into {' and '.join(given.values())} nor into {', '.join(_SHORT)}: set RAY_TMPDIR "
            f"and TMPDIR to a folder that you may write, with a path of at most {LONGEST - BELOW} bytes"
        )
    made = tempfile.mkdtemp(prefix="fd-", dir=short)
    before = tempfile.tempdir  # Python remembers the first folder that it found
    os.environ.update(dict.fromkeys(_VARIABLES, made))
    try:
        yield
    finally:
        tempfile.tempdir = before
        for name in _VARIABLES:
            del os.environ[name]
        os.environ.update(given)
        shutil.rmtree(made, ignore_errors=True)


def _will_do(folder: Path) -> bool:
    """Whether Ray can keep its files below a folder: short enough, and this process may write there."""
    if len(os.fsencode(folder)) + BELOW > LONGEST:
        return False
    below = folder / "ray"  # which another user's Ray may have made
    if not all(os.access(one, os.W_OK | os.X_OK) for one in (folder, below) if one == folder or one.exists()):
        return False
    path = folder / f"fd-{secrets.token_hex(4)}"
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.fsencode(path))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True
