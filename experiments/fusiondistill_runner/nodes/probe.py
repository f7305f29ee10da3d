"""The probe of ``cluster check``: it gathers facts on a node and does not judge them.

Ray sends it to the node by value, so it runs where the project is missing. It never raises: each failure becomes a text
under its name in ``errors``.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from fusiondistill import NAME

__all__ = ["PACKAGES", "STORE_BYTES", "look", "versions"]

PACKAGES = ("torch", "torchvision", "ray", "numpy", NAME)
STORE_BYTES = 32 * 2**20


def look(asked: Mapping[str, Any], payload: Any = None) -> dict[str, Any]:
    """Gather the facts of this machine.

    Args:
        asked: what to look for:

            - ``store``: a location, or None;
            - ``marker``: the name of a file that was written there;
            - ``data``: a list of (label, name, root, parameters);
            - ``folders``: that must be there;
            - ``plugins``: a list of (path, source): the users' files, which run before the data are looked for.

        payload: uint8 array out of the object store, or a reference to one.

    Returns:
        The facts as plain values; ``errors`` holds the failures.
    """
    facts: dict[str, Any] = {"host": socket.gethostname(), "versions": versions(), "errors": {}}
    errors = facts["errors"]
    with _noted(errors, "code"):
        from fusiondistill.code import code_digest

        facts["code"] = code_digest()
    with _noted(errors, "token"):
        facts["token"] = _token()
    with _noted(errors, "torch"):
        facts.update(_devices())
    with _noted(errors, "shm"):
        facts["shm_bytes"] = shutil.disk_usage("/dev/shm").total
    with _noted(errors, "objects"):
        facts["object_rate"] = _object_rate(payload)
    with _noted(errors, "cache"):
        facts.update(_cache())
    if asked.get("store"):
        with _noted(errors, "store"):
            facts.update(_store(asked["store"], asked["marker"]))
    with _noted(errors, "plugins"):
        _run_plugins(asked.get("plugins", ()))
    facts["data"] = {}
    for label, name, root, parameters in asked.get("data", ()):
        with _noted(errors, f"data {label}"):
            from fusiondistill.data import fingerprint

            facts["data"][label] = fingerprint(name, root=root, **parameters)
    facts["missing_folders"] = [folder for folder in asked.get("folders", ()) if not Path(folder).is_dir()]
    return facts


@contextlib.contextmanager
def _noted(errors: dict[str, str], name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a broken installation can raise anything
        errors[name] = f"{type(error).__name__}: {error}"


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Package -> version, of those that are installed here; and of Python."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _token() -> bool:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return is_token_auth_enabled()


def _devices() -> dict[str, Any]:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"gpus": names, "cuda_built": torch.version.cuda}


def _run_plugins(plugins: Sequence[tuple[str, str]]) -> None:
    if plugins:
        from fusiondistill.plugins import Plugin, load_plugins

        load_plugins([Plugin(path, source) for path, source in plugins])


def _object_rate(payload: Any) -> float | None:
    """Bytes a second at which an object of Ray's object store was fetched and read."""
    if payload is None:
        return None
    import ray

    began = time.perf_counter()
    array = ray.get(payload[0]) if isinstance(payload, list) else payload
    int(array[::4096].sum())  # touches every page
    return float(array.nbytes / (time.perf_counter() - began))


def _cache() -> dict[str, Any]:
    from fusiondistill.data.files import cache_folder, write_atomically

    folder = cache_folder()
    probe = folder / f"check-{os.getpid()}"
    write_atomically(probe, b"")
    probe.unlink()
    return {"cache": str(folder), "cache_free": shutil.disk_usage(folder).free}


def _store(location: str, marker: str) -> dict[str, Any]:
    from fusiondistill.checkpoints import open_location, write_file

    filesystem, root = open_location(location)
    from pyarrow import fs

    if filesystem.get_file_info(f"{root}/{marker}").type != fs.FileType.File:
        return {"store_seen": False}
    content, path = os.urandom(STORE_BYTES), f"{root}/{marker}.{socket.gethostname()}.{os.getpid()}"
    try:
        began = time.perf_counter()
        write_file(filesystem, path, content)
        written = time.perf_counter()
        with filesystem.open_input_stream(path) as stream:
            same = stream.read() == content
        read = time.perf_counter()
    finally:
        with contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(path)
    if not same:
        raise OSError(f"{path}: came back other than it was written")
    return {
        "store_seen": True,
        "store_write": STORE_BYTES / (written - began),
        "store_read": STORE_BYTES / (read - written),
    }
