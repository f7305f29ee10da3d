"""A digest of a source's content: what the stages of an experiment, and the cache, know a data set by."""

from __future__ import annotations

import hashlib
import os

from fusiondistill.data.errors import DataError
from fusiondistill.data.files import cache_folder, recalled, remember
from fusiondistill.data.source import Files, Source

__all__ = ["content_digest", "signature"]


def signature(source: Source, files: Files) -> str:
    """A digest of the files' paths, sizes and times: equal as long as nobody has touched them. Reads no content."""
    lines = [source.name, str(source.version)]
    for name, path in sorted(files.items()):
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
        lines.append(f"{name}\0{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}")  # noqa: PTH100
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def content_digest(source: Source, files: Files, known_by: str) -> str:
    """sha256 over the source's name and version, and over every file's name and content, in order of names.

    The same on every machine and for every root, since only names inside the source enter. Remembered in the cache
    folder under `known_by` (the :func:`signature`), so files that nobody touched are read once.

    Returns:
        64 hex digits.
    """
    memo = cache_folder() / "fingerprints" / f"{known_by}.json"
    if known := recalled(memo):
        return str(known["fingerprint"])
    digest = hashlib.sha256(f"fusiondistill data\0{source.name}\0{source.version}\n".encode())
    for name, path in sorted(files.items()):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
        digest.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    result = digest.hexdigest()
    remember(memo, {"fingerprint": result, "source": source.name})
    return result
