"""Reads untrusted zip archives member by member, without extracting; one unsafe member refuses the whole archive."""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fusiondistill.data.decoding import MAX_FILE_BYTES
from fusiondistill.data.errors import DataError

__all__ = ["Zip", "open_zip"]

_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError)
"""What zipfile raises on damaged bytes; ValueError: names that are not text; RuntimeError: unknown compressions."""


class Zip:
    """An open archive: `names`, and `read(name)`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self.names = [info.filename for info in archive.infolist() if info.filename and info.filename[-1] != "/"]
        if len(set(self.names)) < len(self.names):
            raise DataError(f"{path}: two members have the same name. Fetch the archive again.")
        for info in archive.infolist():
            _check(path, info)

    def read(self, name: str) -> bytes:
        """The bytes of one member, its checksum verified."""
        try:
            return self._archive.read(name)
        except KeyError as error:
            raise DataError(f"{self._path}: has no member {name}. Fetch the archive again.") from error
        except _DAMAGED as error:
            raise DataError(f"{self._path}, member {name}: damaged ({error}). Fetch the archive again.") from error


def _check(path: Path, info: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(info.filename).parts
    where = f"{path}, member {info.filename!r}"
    if info.filename.startswith("/") or ".." in parts or "\\" in info.orig_filename or ":" in "".join(parts[:1]):
        raise DataError(f"{where}: points outside the archive. Do not use this file; fetch the official one.")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{where}: is a link. Do not use this file; fetch the official one.")
    if info.file_size > MAX_FILE_BYTES:
        raise DataError(f"{where}: declares {info.file_size:,} bytes, more than the limit of {MAX_FILE_BYTES:,}.")


@contextmanager
def open_zip(path: Path) -> Iterator[Zip]:
    """Open an archive for reading.

    Raises:
        DataError: the file is no zip or cut short; or a member is a link, declares more than 64 MiB, or has an absolute
            name or one with `..`.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise DataError(f"{path}: no intact zip archive ({error}). Fetch it again.") from error
    with archive:
        yield Zip(path, archive)
