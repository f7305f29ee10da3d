"""A private folder among the temporary files, which replaces a home folder that takes no files.

Schedulers and containers start processes without ``HOME``, with ``HOME=/``, with a home that is read-only or another
user's, and under a user id that no list of users knows.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from fusiondistill import NAME

__all__ = ["can_be_made", "home", "private_folder", "takes_files"]


def private_folder() -> Path:
    """``fusiondistill-<user id>`` in the folder of temporary files (``TMPDIR``), made if it is missing.

    Raises:
        PermissionError: something of this name is another user's, or open to others.
        FileNotFoundError: no folder of temporary files takes a file.
    """
    path = Path(tempfile.gettempdir()) / f"{NAME}-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{path} is not yours alone: remove it, or set TMPDIR to your own folder")
    return path


def home() -> Path | None:
    """The user's home; None where neither ``HOME`` (an absolute path) nor a list of users tells it."""
    try:
        found = Path.home()
    except RuntimeError:
        return None
    return found if found.is_absolute() else None


def takes_files(path: Path) -> bool:
    """Whether this process can write files into a folder, which it makes if it is missing."""
    return can_be_made(path) and (not path.exists() or os.access(path, os.W_OK | os.X_OK))


def can_be_made(path: Path) -> bool:
    """Whether a folder is there, or this process may make it."""
    for folder in (path, *path.parents):
        try:
            found = folder.stat()
        except FileNotFoundError:
            continue
        except OSError:  # below a folder that this user may not enter
            return False
        return stat.S_ISDIR(found.st_mode) and (folder == path or os.access(folder, os.W_OK | os.X_OK))
    return False
