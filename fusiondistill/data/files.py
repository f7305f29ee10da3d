"""The cache folder, which processes share: they rename files into place, lock a folder to build it, and seal facts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusiondistill import NAME
from fusiondistill.commits import CheckpointError, sealed, unsealed
from fusiondistill.data.errors import DataError
from fusiondistill.locations import lacks, move_into_place
from fusiondistill.private_folder import can_be_made, home, private_folder

__all__ = ["cache_folder", "locked", "recalled", "remember", "temporary_folder", "write_atomically"]

LEFTOVER_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """The cache folder: `FUSIONDISTILL_CACHE`, else `fusiondistill` in `$XDG_CACHE_HOME` or else in `~/.cache`.

    Where neither can be made, it lies among the temporary files. The user can delete it at any time; everything in it
    is made again from the sources.
    """
    if chosen := os.environ.get("FUSIONDISTILL_CACHE"):
        return Path(chosen).expanduser().resolve()
    user = os.environ.get("XDG_CACHE_HOME", "")
    at_home = home()
    # By the XDG rule a relative path is ignored.
    base = Path(user) if Path(user).is_absolute() else at_home and at_home / ".cache"
    if base and can_be_made(base / NAME):
        return base / NAME
    try:
        return private_folder() / "cache"
    except OSError as error:
        why = f"{base or 'a home'} takes no files, and {error}"
        raise DataError(f"no folder for decoded images: {why}. Set FUSIONDISTILL_CACHE to a folder.") from error


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(folder):
            raise  # of a source, which reads its files meanwhile
        why = error.strerror or error
        raise DataError(
            f"{folder}: cannot be written ({why}). Set FUSIONDISTILL_CACHE to a folder with room that you may write."
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file by temporary file and rename: readers see the old content or the new, never a part."""
    with _writing(path.parent):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.tmp-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            with contextlib.suppress(OSError):  # not every file system has modes
                Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide a shared cache from other users
            move_into_place(Path(temporary), path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def remember(path: Path, facts: Mapping[str, Any]) -> None:
    """Keep facts for :func:`recalled`. If the cache cannot be written, they are computed again the next time."""
    with contextlib.suppress(DataError):
        write_atomically(path, sealed(facts))


def recalled(path: Path) -> dict[str, Any] | None:
    """The facts that :func:`remember` kept; None if the file is missing or damaged."""
    try:
        return unsealed(path.read_bytes(), str(path))
    except (OSError, CheckpointError):
        return None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock for making one folder. A second process waits, then finds the folder instead of making it again.

    The kernel frees the lock when its holder dies. Where locks do not work (some network file systems), two processes
    both make the folder and one result stays.
    """
    locks = cache_folder() / "locks"
    with _writing(locks):
        file = (locks / hashlib.sha256(os.fsencode(folder)).hexdigest()).open("w")
    with file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def temporary_folder(final: Path) -> Iterator[Path]:
    """A folder to fill; renamed to `final` at the end of the block, removed if the block raises.

    An earlier (damaged) folder at `final` is removed; processes that have its files mapped keep them.
    """
    with _writing(final.parent):
        for leftover in final.parent.glob(f"{final.name}.tmp-*"):  # of a process that was killed
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=f"{final.name}.tmp-"))
        try:
            with contextlib.suppress(OSError):
                folder.chmod(0o755)  # as above
            yield folder
            _put_in_place(folder, final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _copy_in_place(folder: Path, final: Path) -> None:
    """Copy a folder's files where the file system cannot rename it: the file that was written last, which names the
    others with their digests, comes last."""
    final.mkdir(exist_ok=True)
    for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        shutil.copyfile(file, final / file.name)
        with contextlib.suppress(OSError):
            os.utime(final / file.name, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))  # see cache._map


def _put_in_place(folder: Path, final: Path) -> None:
    for _ in range(10):
        try:
            folder.rename(final)
            return
        except OSError as error:
            if lacks(error):
                return _copy_in_place(folder, final)
            if not final.exists():
                raise
        old = Path(tempfile.mkdtemp(dir=final.parent, prefix=f"{final.name}.tmp-"))
        with contextlib.suppress(FileNotFoundError):  # another builder may have moved it first
            final.rename(old / "old")
        shutil.rmtree(old, ignore_errors=True)
    raise DataError(f"{final}: other processes keep replacing it. Give each job its own FUSIONDISTILL_CACHE.")
