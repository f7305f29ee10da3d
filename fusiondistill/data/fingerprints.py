"""A digest of a source's content, by which stages and the cache identify a data set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusiondistill.data.errors import DataError
from fusiondistill.data.files import cache_folder, recalled, remember
from fusiondistill.data.source import Files

if TYPE_CHECKING:
    from fusiondistill.sources import Source

__all__ = ["content_digest", "signature"]


def signature(source: Source, files: Files, parameters: Mapping[str, Any]) -> str:
    """A digest of the files' paths, sizes and times, which changes when a file is written. Reads no content."""
    lines = [_said(source, parameters), *filter(None, [_read_as(files)])]
    for name, path in sorted(files.items()):
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
        lines.append(f"{name}\0{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}")  # noqa: PTH100
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def content_digest(source: Source, files: Files, parameters: Mapping[str, Any], known_by: str) -> str:
    """sha256 over the source's name, code and parameters, and every file's name and content, in order of names.

    It is the same on every machine and for every root, since only names inside the source enter. It is cached under
    `known_by` (the :func:`signature`), so a file is read once until it changes.

    Returns:
        64 hex digits.
    """
    memo = cache_folder() / "fingerprints" / f"{known_by}.json"
    if known := recalled(memo):
        return str(known["fingerprint"])
    digest = hashlib.sha256(f"fusiondistill data\0{_said(source, parameters)}\n{_read_as(files)}".encode())
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


def _read_as(files: Files) -> str:
    return str(getattr(files, "read_as", ""))


def _said(source: Source, parameters: Mapping[str, Any]) -> str:
    """A source's name, code and given parameters, as text.

    A built-in source's parameters count where they are not the default, so that a new one leaves fingerprints alone.
    """
    fields = {} if source.plugin else source.parameters.model_fields
    told = {key: value for key, value in parameters.items() if key not in fields or value != fields[key].default}
    given = f"\0{json.dumps(told, sort_keys=True, default=str)}" if told else ""
    return f"{source.name}\0{source.code}{given}"
