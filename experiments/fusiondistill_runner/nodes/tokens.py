"""Ray's token: a process that holds it can run code in the cluster, so only its owner may read it.

A run that starts its own Ray needs no token of earlier runs. Where the home takes no file, or holds the token of
another user, a new token lives in the environment of the processes of this run, which other users cannot read either.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from fusiondistill.locations import lacks
from fusiondistill.private_folder import home

__all__ = ["keep_token_private"]


def token_file() -> Path | None:
    """Where Ray looks for the token; None if the environment holds the token itself, or there is no home."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    if given := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return Path(given).expanduser()
    at_home = home()
    return at_home / ".ray" / "auth_token" if at_home else None


def keep_token_private(say: Callable[[str], None]) -> None:
    """Make the token's file before Ray makes one that all users can read, and correct the mode of a readable one.

    Args:
        say: called with a text if the mode was changed, or could not be.

    Raises:
        PermissionError: the file that ``RAY_AUTH_TOKEN_PATH`` names cannot be read.
    """
    path = token_file()
    try:
        if path is not None:
            _make(path)
            path.read_bytes()
    except OSError as error:
        if os.environ.get("RAY_AUTH_TOKEN_PATH"):
            raise PermissionError(
                f"RAY_AUTH_TOKEN_PATH is {path}, which cannot be read or made ({error.strerror}): set it to your "
                "own file, or leave it out"
            ) from error
        path = None
    if path is None:
        if not os.environ.get("RAY_AUTH_TOKEN"):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(0o600)
            say(f"{path}, the token of your Ray clusters, could be read by others ({mode:04o}): now by you alone")
    except OSError as error:
        say(f"{path}, the token of your Ray clusters, may be readable by others: {error.strerror}")


def _make(path: Path) -> None:
    """Write a token where the file is missing or empty. Of two runs that do so at once, the first one's token stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size:
            return
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            path.hardlink_to(aside)  # unlike a rename it never replaces a file
        except FileExistsError:
            if not path.stat().st_size:  # left by a process that died before it wrote
                aside.replace(path)
        except OSError as error:
            if not lacks(error):
                raise
            if not path.exists() or not path.stat().st_size:
                aside.replace(path)  # of two runs that come here at one instant, the second may have to start again
    finally:
        aside.unlink(missing_ok=True)
