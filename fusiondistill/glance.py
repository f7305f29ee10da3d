"""A snapshot of a bucket, so that a reader of many small files waits for the latency once."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusiondistill.locations import explained, read_whole, side_by_side

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["Glance"]

MOST_AHEAD = 64 * 2**20
"""Bytes of a file that is read ahead; a larger one is no manifest."""


class Glance:
    """A snapshot of a bucket: one listing, and the small files that are wanted, read side by side.

    Reading a missing file takes no request. Everything but reading goes to the file system itself.

    Args:
        root: the folder that is listed, with everything below.
        patterns: file names that are read ahead, like ``counts.*.parquet``.
        location: the user's name of the bucket, for messages.

    Raises:
        LocationError, ConnectionError: see :func:`explained`.
    """

    def __init__(self, filesystem: FileSystem, root: str, patterns: Sequence[str], location: str) -> None:
        from pyarrow import fs

        self.filesystem = filesystem
        try:
            found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        except FileNotFoundError:
            found = []  # nothing was written yet
        except OSError as error:
            raise explained(error, location) from error
        self.sizes: dict[str, int] = {info.path: info.size for info in found if info.is_file}
        names = {path: path.rpartition("/")[2] for path in self.sizes}
        matching = (path for path, name in names.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns))
        wanted = [path for path in matching if self.sizes[path] <= MOST_AHEAD]
        contents = side_by_side(lambda path: read_whole(filesystem, path), wanted)
        self.contents = dict(zip(wanted, contents, strict=True))

    def read_ahead(self, path: str, limit: int | None = None) -> bytes | None:
        """The content of a file, None if there was none; see :func:`read_whole`."""
        if path in self.contents:
            return self.contents[path]
        return read_whole(self.filesystem, path, limit) if path in self.sizes else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filesystem, name)
