"""Commits files: each is written under the name of its attempt, then a sealed manifest names them all.

The manifest is written last, by temporary file and rename. Two writers, a crash or a full disk can leave files that no
manifest names, but never a mixture of two attempts. Directories and buckets are one mechanism, :mod:`pyarrow.fs`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusiondistill.locations import LocationError, read_whole, write_file

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = [
    "MANIFEST", "CheckpointError", "check_size", "commit", "digest", "new_attempt", "read_file", "read_manifest",
    "sealed", "unsealed",
]  # fmt: skip

MANIFEST = "manifest.json"
MOST_BYTES = 64 * 2**20
"""Of a manifest that is read."""
SEAL = "seal"


class CheckpointError(ValueError):
    """A stored file is missing, damaged or does not fit; the message names it."""


def new_attempt() -> str:
    """A name for one attempt at writing a stage: eight random hex digits."""
    return secrets.token_hex(4)


def digest(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def commit(
    filesystem: FileSystem, directory: str, files: Mapping[str, bytes], manifest: Mapping[str, Any], attempt: str
) -> dict[str, Any]:
    """Write files under the attempt's name, then the manifest that names them.

    Args:
        files: logical name (``model.safetensors``) -> content; stored as ``model.<attempt>.safetensors``.
        manifest: JSON-able; gets the keys ``attempt`` and ``files``.

    Returns:
        The manifest as written.
    """
    entries = {}
    for name, data in files.items():
        stem, dot, suffix = name.rpartition(".")
        stored = f"{stem}.{attempt}{dot}{suffix}" if dot else f"{name}.{attempt}"
        write_file(filesystem, f"{directory}/{stored}", data)
        entries[name] = {"file": stored, "sha256": digest(data), "bytes": len(data)}
    complete = {**manifest, "attempt": attempt, "files": entries}
    write_file(filesystem, f"{directory}/{MANIFEST}", sealed(complete))
    return complete


def sealed(content: Mapping[str, Any]) -> bytes:
    """Facts as JSON with their own digest, for :func:`unsealed`."""
    return json.dumps({**content, SEAL: digest(_canonical(content))}, indent=1, sort_keys=True).encode()


def unsealed(data: bytes, path: str) -> dict[str, Any]:
    """The facts in the bytes that :func:`sealed` made; ``path`` is for the message.

    Raises:
        CheckpointError: the bytes are cut short, changed, or hold no facts.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no facts")
    if content.pop(SEAL, None) != digest(_canonical(content)):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest")
    return content


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def read_manifest(filesystem: FileSystem, directory: str) -> dict[str, Any] | None:
    """The manifest of a directory, its own digest checked; None if there is none.

    Raises:
        CheckpointError: it is cut short or changed.
    """
    path = f"{directory}/{MANIFEST}"
    try:
        data = read_whole(filesystem, path, MOST_BYTES)
    except LocationError as error:
        raise CheckpointError(f"{path} is no manifest: {error}") from error
    if data is None:
        return None
    manifest = unsealed(data, path)
    files = manifest.get("files")
    if not isinstance(files, dict) or not isinstance(manifest.get("attempt"), str):
        raise CheckpointError(f"{path} is no manifest: it names no files")
    for name, entry in files.items():
        _check_entry(path, name, entry)
    return manifest


def _check_entry(path: str, name: str, entry: Any) -> None:
    """Refuse an entry that leads out of its directory, as one in an untrusted manifest may."""
    kinds = {"file": str, "sha256": str, "bytes": int}
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
        raise CheckpointError(f"{path} is no manifest: {name!r} has no file, digest and size")
    if {"/", "\\", "\0"} & set(entry["file"]) or entry["file"] in ("", ".", ".."):
        raise CheckpointError(f"{path} points outside its directory: {name!r} is {entry['file']!r}; do not use it")


def read_file(filesystem: FileSystem, directory: str, manifest: Mapping[str, Any], name: str) -> bytes:
    """A committed file, verified.

    Raises:
        CheckpointError: not in the manifest, missing, or its digest differs.
    """
    entry = manifest["files"].get(name)
    if entry is None:
        raise CheckpointError(f"{directory}/{MANIFEST} names no {name}")
    path = f"{directory}/{entry['file']}"
    try:
        data = read_whole(filesystem, path, entry["bytes"])
    except LocationError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if data is None:
        raise CheckpointError(f"{path} is missing although the manifest names it")
    if len(data) != entry["bytes"] or digest(data) != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: {len(data)} bytes that do not match the manifest's digest")
    return data


def check_size(directory: str, entry: Mapping[str, Any], size: int | None) -> None:
    """Compare the size of a committed file with its entry in the manifest; None: there is no such file.

    Raises:
        CheckpointError: missing, or cut short.
    """
    path = f"{directory}/{entry['file']}"
    if size is None:
        raise CheckpointError(f"{path} is missing although the manifest names it")
    if size != entry["bytes"]:
        raise CheckpointError(f"{path} is damaged: {size} bytes, the manifest says {entry['bytes']}")
