"""Directories and buckets as one mechanism (:mod:`pyarrow.fs`): opens locations, reads and writes whole files.

A bucket has no rename and needs none: an upload is visible when it is complete. Requests have latency and a price, so a
file is read by two (its size, its content) and written by one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = [
    "DiskFull",
    "LocationError",
    "absolute",
    "be_patient",
    "explained",
    "is_local",
    "lacks",
    "move_into_place",
    "open_location",
    "read_whole",
    "write_file",
]

ATTEMPTS = 4
CONNECT, SILENCE = 5.0, 10.0
"""Seconds after which an attempt counts as failed: without a connection, and without an answer."""
PATIENCE = 60.0
"""Seconds that work under way waits for a bucket that does not answer any more (``FUSIONDISTILL_WAIT_FOR_STORE``)."""
AT_ONCE = 16
"""Requests side by side, so that a look at hundreds of stages waits for a sixteenth of their latency."""
_SETTINGS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")

T = TypeVar("T")
R = TypeVar("R")


class LocationError(ValueError):
    """A place that does not exist, or that these credentials may not use; the message says what to do."""


class DiskFull(OSError):
    """A disk is full; the message names the file, its size and the free bytes."""


_patience = 0.0


def be_patient() -> None:
    """From now on, in this process, reading and writing wait for a server that does not answer.

    To be called once the server has answered. Before, a caller should learn at once that it does not.
    """
    global _patience
    text = os.environ.get("FUSIONDISTILL_WAIT_FOR_STORE") or str(PATIENCE)
    try:
        _patience = float(text)
    except ValueError:
        raise ValueError(f"FUSIONDISTILL_WAIT_FOR_STORE is {text!r}: give a number of seconds") from None


def _patiently(call: Callable[[], R], path: str, patience: float | None) -> R:
    """The result of a request, repeated for ``patience`` seconds (None: see :func:`be_patient`) without an answer."""
    limit = time.monotonic() + (_patience if patience is None else patience)
    while True:
        try:
            return call()
        except OSError as error:
            if not any(sign in str(error) for sign in _SILENT):
                raise
            if time.monotonic() >= limit:
                raise explained(error, path) from error
            time.sleep(0.5)


def absolute(location: str | Path) -> str:
    """A location that is valid in any working directory; a URI stays as it is."""
    text = str(location)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def open_location(location: str | Path) -> tuple[FileSystem, str]:
    """The file system and the path in it.

    Args:
        location: a path (relative, with ``~``, on a local disk or NFS), ``file:///path``, or a URI that pyarrow knows:
            ``s3://bucket/folder?endpoint_override=host:port&scheme=http&region=...`` (each setting may be left out),
            ``gs://bucket/folder``, ``hdfs://host:port/folder``, ... Credentials come from where the service's own
            tools take them (for S3 ``AWS_ACCESS_KEY_ID`` and its kin, ``~/.aws``, the machine's role).

    Raises:
        LocationError: no such kind of URI, an unknown setting, or credentials in the URI.
    """
    from pyarrow import ArrowException, fs

    text = str(location)
    if "://" not in text:
        return fs.LocalFileSystem(), absolute(text)
    try:
        if text.startswith("s3://"):
            return _open_s3(text)
        if text.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in text:
            text += ("&" if "?" in text else "?") + f"retry_limit_seconds={ATTEMPTS * SILENCE:g}"  # else: 15 minutes
        filesystem, path = fs.FileSystem.from_uri(text)
    except ArrowException as error:
        raise LocationError(f"{location} is no location: {error}") from error
    except OSError as error:
        raise explained(error, text) from error
    return filesystem, path.rstrip("/") or "/"


def _open_s3(uri: str) -> tuple[FileSystem, str]:
    """An S3 file system with bounded retries, which uploads small files in one request."""
    from pyarrow import fs

    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise LocationError(
            "credentials do not belong in a URI, which is printed and stored: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(settings.keys() - set(_SETTINGS)):
        raise LocationError(f"{uri} has an unknown setting {unknown[0]!r}; known: {', '.join(_SETTINGS)}")
    if not parts.netloc:
        raise LocationError(f"{uri} names no bucket: s3://BUCKET/FOLDER")
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    endpoint = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
    if not ({"region", "endpoint_override"} & settings.keys() or any(os.environ.get(name) for name in endpoint)):
        settings["region"] = fs.resolve_s3_region(parts.netloc)
    filesystem = fs.S3FileSystem(
        **settings,
        retry_strategy=retries,
        connect_timeout=CONNECT,
        request_timeout=SILENCE,
        allow_delayed_open=True,
    )
    return filesystem, f"{parts.netloc}/{parts.path.strip('/')}".rstrip("/")


def is_local(filesystem: FileSystem) -> bool:
    """Whether files have names that the operating system knows (a disk, NFS)."""
    from pyarrow import fs

    return isinstance(filesystem, fs.LocalFileSystem)


_REFUSED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "EXPIRED_TOKEN",
    "INVALID_TOKEN",
    "INVALID_CLIENT_TOKEN_ID",
    "MISSING_AUTHENTICATION_TOKEN",
    "UNRECOGNIZED_CLIENT",
    "HTTP status 403",
)


_SILENT = ("NETWORK_CONNECTION", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "UNAVAILABLE")


def explained(error: OSError, location: str) -> Exception:
    """An error of a bucket as one for users.

    Returns:
        A :class:`LocationError` for a wrong bucket or credentials, a :class:`ConnectionError` for a server that does
        not answer, else ``error`` itself.
    """
    text = str(error)
    if "NO_SUCH_BUCKET" in text or ("ucket" in text and "not found" in text):
        return LocationError(f"{location}: there is no such bucket; make it, or give another")
    if any(reason in text for reason in _REFUSED):
        reason = text.partition("AWS Error ")[2] or text
        return LocationError(
            f"{location}: these credentials are refused ({reason}); check AWS_ACCESS_KEY_ID and its kin"
        )
    if "NETWORK_CONNECTION" in text:
        reason = text.partition("operation: ")[2] or text
        return ConnectionError(f"{location}: the server does not answer ({reason}); check the address and the network")
    return error


def read_whole(filesystem: Any, path: str, limit: int | None = None, *, patience: float | None = None) -> bytes | None:
    """The content of a file, None if there is none.

    Args:
        limit: bytes; a larger file is not read.
        patience: seconds to wait for a server that does not answer; None: see :func:`be_patient`.

    Raises:
        LocationError: it is larger.
    """
    if (ahead := getattr(filesystem, "read_ahead", None)) is not None:  # see fusiondistill.glance
        content: bytes | None = ahead(path, limit)
        return content

    def read() -> bytes:
        with filesystem.open_input_file(path) as stream:  # an input stream would ask for every 256 KiB anew
            if limit is not None and (size := stream.size()) > limit:
                raise LocationError(f"{path} has {size:,} bytes, at most {limit:,} were expected")
            return bytes(stream.read())

    try:
        return _patiently(read, path, patience)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_file(filesystem: FileSystem, path: str, data: bytes, *, patience: float | None = None) -> None:
    """Write a whole file or nothing, by temporary file and rename. A bucket's upload is atomic by itself.

    Raises:
        DiskFull: the disk is full, or the file is larger than a quota or the file system allows.
    """
    if is_local(filesystem):
        with naming_full_disk(path, len(data)):
            _write_local(Path(path), data)
        return

    def upload() -> None:
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)

    _patiently(upload, path, patience)


def _write_local(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            with tolerated(*_NO_CALL):  # a file that a power cut left unwritten does not match its digest
                os.fsync(stream.fileno())
        move_into_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


_NO_CALL = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.EXDEV, errno.ENOLCK, errno.ENODEV)
"""How file systems (of network disks, buckets that are mounted, memory cards) say that they have no such call."""


def lacks(error: OSError) -> bool:
    """Whether an error says that the file system does not have the call."""
    return error.errno in _NO_CALL


@contextlib.contextmanager
def tolerated(*numbers: int) -> Iterator[None]:
    """Go on after the operating system's errors of these numbers."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def move_into_place(temporary: Path, target: Path) -> None:
    """Rename a file over another; where the file system has no rename, write its content there.

    What is written so can be cut short by a kill. Its digest tells, in its manifest or in itself, and it is made again.

    Raises:
        OSError: the file system takes the file in neither way; the message says what to do.
    """
    try:
        temporary.replace(target)
    except OSError as error:
        if not lacks(error):
            raise
        try:
            shutil.copyfile(temporary, target)
        except OSError as other:
            if not lacks(other):
                raise
            raise OSError(
                f"{target.parent}: this file system can neither rename a file ({error.strerror}) nor write over one "
                f"({other.strerror}): give a folder on another one, or a bucket by its URI"
            ) from other


@contextlib.contextmanager
def naming_full_disk(path: str, size: int) -> Iterator[None]:
    """Turn the operating system's errors of a full disk into one that names the file and the free bytes.

    Any other error of the operating system gets the name of the file.

    Raises:
        DiskFull: there is no room for ``size`` bytes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if error.errno is not None and error.filename is None:
                error.filename = path  # a failing disk names no file
            raise
        there = next(parent for parent in Path(path).parents if parent.is_dir())
        problem = DiskFull(
            f"{path} cannot be written: {error.strerror} ({size:,} bytes, {shutil.disk_usage(there).free:,} are free "
            f"in {there}). Make room and start the same command again: what is stored stays"
        )
        problem.errno = error.errno
        raise problem from error


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The function's results for all items, in order; :data:`AT_ONCE` threads compute them."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, items))
