"""Files below one location, a directory or a bucket: paths, whole reads and writes, snapshots, one driver at a time."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from fusiondistill import checkpoints, locations
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.glance import Glance
from fusiondistill_runner.storage.holding import held

__all__ = ["Place"]


def _nothing() -> None:
    """The check of a place that is not held: none."""


class Place:
    """Files below one location. Cheap to make; a worker makes its own from the location.

    Args:
        location: as :func:`fusiondistill.locations.open_location` takes it.

    Attributes:
        location: the same, a path for ``file://`` URIs.
        remote: whether it is a bucket, not a directory.
        check_held: raises :class:`~storage.holding.StoreBusy` once another run has taken over what :meth:`held` holds.
    """

    def __init__(self, location: str | Path) -> None:
        self.filesystem: Any
        self.filesystem, self.root = locations.open_location(location)
        self.remote = not locations.is_local(self.filesystem)
        self.location = str(location) if self.remote or "://" not in str(location) else self.root
        self.check_held: Callable[[], None] = _nothing
        self.began_there = self.is_there()

    def is_there(self) -> bool:
        """Whether the store's directory is there; of a bucket this is not asked."""
        return self.remote or Path(self.root).is_dir()

    def check_there(self) -> None:
        """Check that the store's directory is there. Where a bucket is gone, the requests themselves fail.

        Raises:
            FileNotFoundError: it is not there.
        """
        if not self.is_there():
            raise FileNotFoundError(f"{self.location} is gone: was it moved, or its disk unmounted?")

    def _check_still_there(self) -> None:
        """Check before a write that the store was not moved away since the start: the write would make another one."""
        if self.began_there:
            self.check_there()

    def glance(self, *patterns: str) -> Self:
        """A snapshot for reading. Of a bucket: one listing, and the files whose names match, read side by side.

        Raises:
            LocationError: there is no such bucket, or the credentials are refused.
            ConnectionError: the server does not answer.
        """
        seen = copy.copy(self)
        if self.remote:
            below = getattr(self.filesystem, "filesystem", self.filesystem)  # of a snapshot: take a new one
            seen.filesystem = Glance(below, self.root, patterns, self.location)
        return seen

    def shown(self, *parts: str) -> str:
        """A path in the store as a user would give it."""
        if not self.remote:
            return self.path(*parts)
        kind, _, rest = self.location.partition("://")
        _, mark, query = rest.partition("?")  # the server, region and scheme
        return f"{kind}://{self.path(*parts)}{mark}{query}"

    def path(self, *parts: str) -> str:
        """A path inside the store's file system.

        Raises:
            CheckpointError: it would lead out of the store, as a name from an untrusted file may.
        """
        if any({"", ".", ".."} & set(part.split("/")) for part in parts):
            raise CheckpointError(f"{parts} leads out of the store {self.location}")
        return "/".join([self.root, *parts])

    def read_raw(self, *parts: str) -> bytes | None:
        """A file that no manifest names, or None."""
        return locations.read_whole(self.filesystem, self.path(*parts))

    def write(self, data: bytes, *parts: str) -> None:
        """Write a file that no manifest names (plans, views, the report): whole or not at all."""
        self._check_still_there()
        checkpoints.write_file(self.filesystem, self.path(*parts), data)

    def directories(self) -> list[str]:
        """Names of all directories in the store."""
        from pyarrow import fs

        selector = fs.FileSelector(self.root, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the store for one driver: see :func:`storage.holding.held`.

        Raises:
            StoreBusy: another driver holds it; the message names it.
        """
        if self.remote:
            self.glance()  # raises where there is no such bucket
        with held(self.filesystem, self.root, self.location) as self.check_held:
            self.began_there = True
            yield
