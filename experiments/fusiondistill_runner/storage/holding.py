"""One driver per store: by a lock that dies with its holder; in a bucket, or on a disk without locks, by a lease."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from fusiondistill import locations
from fusiondistill_runner.storage.lease import Lease, Taken, identity, leased

__all__ = ["CLAIMS", "BucketClaims", "StoreBusy", "held"]

CLAIMS = "leases"
NAMING = 5.0
"""Seconds that a driver gets to write its name into a lock that it has just taken."""
GAP = 10.0
"""Seconds for which the store's file system may fail to answer before the holder gives the store up."""


class StoreBusy(RuntimeError):
    """Another run holds the store."""


class _NoLock(OSError):
    """A disk on which no file can be locked."""


@contextlib.contextmanager
def held(filesystem: Any, root: str, location: str) -> Iterator[Callable[[], None]]:
    """Hold a store for the length of a block.

    Yields:
        A cheap function that raises :class:`StoreBusy` once the store is no longer held.

    Raises:
        StoreBusy: another driver holds it; the message names it.
    """
    if locations.is_local(filesystem):
        with contextlib.ExitStack() as stack:
            try:
                check = stack.enter_context(_locked(Path(root), location))
            except OSError as error:  # a network disk without locks is held like a bucket
                if not (locations.lacks(error) or isinstance(error, _NoLock)):
                    raise
            else:
                yield check
                return
    else:
        locations.be_patient()  # the caller has just reached the server
    try:
        with leased(BucketClaims(filesystem, f"{root}/{CLAIMS}")) as lease:
            yield lambda: _check_lease(lease, location)
    except Taken as taken:
        raise _busy(location, str(taken)) from None


def _check_lease(lease: Lease, location: str) -> None:
    if lease.lost is not None:
        raise StoreBusy(
            f"{location} was taken over by {lease.lost}, since this run gave no sign of life for a while; what it "
            "stored until then stays"
        )


@contextlib.contextmanager
def _locked(root: Path, location: str) -> Iterator[Callable[[], None]]:
    import fcntl

    path = root / ".lock"
    with contextlib.ExitStack() as stack:
        with locations.naming_full_disk(str(path), 100):
            try:
                root.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(path.open("a+b", buffering=0))
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                why = f"{error.strerror}: {error.filename}"
                raise ValueError(f"the store {location} takes no files ({why}): give another --store") from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _busy(location, _name_in(lock) or "another run") from error
            except OSError as error:
                if error.errno != errno.EACCES:
                    raise _NoLock(error.errno, error.strerror, str(path)) from error
                # of SMB: held by another client
                who = f"another run, or its disk refuses to lock {path} ({error.strerror})"
                raise _busy(location, _name_in(lock) or who) from error
            lock.truncate(0)
            lock.write(identity().encode())
        yield _LockCheck(path, lock, location)


_REFUSED = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EROFS)
"""Why a folder cannot be made or written, for good."""


def _name_in(lock: IO[bytes]) -> str:
    """The name of a lock's holder. A holder that has just taken the lock gets a few seconds to write its name."""
    limit = time.monotonic() + NAMING
    while True:
        lock.seek(0)
        name = lock.read().decode(errors="replace").strip()
        if name or time.monotonic() > limit:
            return name
        time.sleep(0.05)


def _busy(location: str, who: str) -> StoreBusy:
    return StoreBusy(f"{location} is in use by {who}: wait for it, stop it, or give another --store")


class _LockCheck:
    """Checks that the lock is still the file that other drivers would lock."""

    def __init__(self, path: Path, lock: IO[bytes], location: str) -> None:
        self.path, self.lock, self.location, self.seen = path, lock, location, time.monotonic()

    def __call__(self) -> None:
        try:
            there = os.path.samestat(self.path.stat(), os.fstat(self.lock.fileno()))
        except OSError as error:
            if error.errno != errno.ENOENT and time.monotonic() - self.seen < GAP:
                return  # NFS does not answer
            raise StoreBusy(
                f"{self.location} is gone ({error.strerror}): was it moved, or its disk unmounted? Bring it back and "
                "start the same command again"
            ) from error
        if not there:
            raise StoreBusy(f"{self.location} is another store than the one that this run began with: was it replaced?")
        self.seen = time.monotonic()


class BucketClaims:
    """A :class:`~storage.lease.ClaimFolder` in a bucket or on a disk, whose listings show what is there now."""

    def __init__(self, filesystem: Any, folder: str) -> None:
        self.filesystem, self.folder = filesystem, folder

    def names(self) -> list[str]:
        """The names of all claims."""
        from pyarrow import fs

        found = self.filesystem.get_file_info(fs.FileSelector(self.folder, allow_not_found=True))
        return [info.base_name for info in found if info.is_file]

    def read(self, name: str) -> bytes | None:
        """A claim, None if it is gone."""
        path = f"{self.folder}/{name}"
        for again in (True, True, False):
            try:
                return locations.read_whole(self.filesystem, path, 10_000, patience=0)
            except OSError:  # deleted between the request for its size and the one for its content
                if not again or self.filesystem.get_file_info(path).is_file:
                    raise
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write a claim whole."""
        locations.write_file(self.filesystem, f"{self.folder}/{name}", data, patience=0)

    def delete(self, name: str) -> None:
        """Delete a claim, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.folder}/{name}")
