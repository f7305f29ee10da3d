"""The place that a command is asked to write to: what is wrong with it is said before any work."""

from __future__ import annotations

import os
from pathlib import Path

from fusiondistill.locations import is_local, open_location

__all__ = ["why_no_file", "why_nothing_in"]


def why_no_file(out: str | Path, *, force: bool, buckets: bool = False) -> str | None:
    """Why no file can be written to a place, and what to do, in words that follow its name; None: it can.

    Args:
        out: a path or, with ``buckets``, a URI as :func:`fusiondistill.locations.open_location` takes it.
        force: replace a file that is there.

    Raises:
        LocationError: no such kind of URI.
        OSError: the bucket does not answer.
    """
    if "://" in str(out) and not buckets:
        return "the file goes to this machine's disk; copy it from there"
    filesystem, place = open_location(out)
    path = Path(place)
    if is_local(filesystem) and (why := why_nothing_in(path.parent)):
        return why
    kind = filesystem.get_file_info(place).type.name
    if kind == "Directory":
        return "a folder is there: give the name of a file"
    if (kind != "NotFound" or (is_local(filesystem) and path.is_symlink())) and not force:
        return "a file is there already: give another name, or --force to replace it"
    if is_local(filesystem) and path.exists() and not os.access(path, os.W_OK):
        return "the file that is there may not be changed by you"
    return None


def why_nothing_in(folder: Path) -> str | None:
    """Why nothing can be written in a folder of this machine; None: it can."""
    if not folder.is_dir():
        return f"there is no folder {folder}; make it first"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} takes no files from you"
    return None
