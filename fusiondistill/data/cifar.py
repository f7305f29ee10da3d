"""CIFAR-10 and CIFAR-100 from the official python archives (CIFAR-100 with its fine labels).

`root` may be the unpacked folder, or a folder that holds it. It is read in place; its files may have fewer rows than
the official ones. Where it is missing, the archive is downloaded (with torchvision's address and checksum) into `root`
or, without one, into the cache folder, and only the batch files are extracted.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusiondistill.data.decoding import MAX_FILE_BYTES, read_bounded
from fusiondistill.data.errors import DataError
from fusiondistill.data.files import cache_folder, locked, temporary_folder
from fusiondistill.data.pickles import read_pickle
from fusiondistill.data.source import Contents, Files, Root, Row

__all__ = ["Layout", "locate", "read"]

MAX_FILES_BYTES = 4 * MAX_FILE_BYTES  # CIFAR-100's training file has 155 MB


@dataclass(frozen=True)
class Layout:
    """How one archive is laid out."""

    torchvision: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all its files."""
        return (*self.train, *self.test, self.meta)


def locate(layout: Layout, root: Root) -> dict[str, Path]:
    """The files of an archive below a root or in the cache, downloaded if missing. DataError: they cannot be had."""
    if isinstance(root, list):
        raise DataError(f"`{layout.torchvision.lower()}` takes one root, a folder, not {len(root)} paths.")
    base = cache_folder() / "downloads" if root is None else Path(root).expanduser()
    if root is not None and not base.is_dir():
        raise DataError(f"{base}: there is no such folder. Make it, or give no root to use the cache.")
    folder = _unpacked(layout, base)
    if folder is None:
        folder = base / layout.folder
        with locked(folder):
            if _unpacked(layout, base) is None:  # another process may have downloaded it meanwhile
                _download(layout, folder)
    for name in layout.files:
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: this file is missing beside the others. Unpack the archive again.")
    return {name: folder / name for name in layout.files}


def _unpacked(layout: Layout, base: Path) -> Path | None:
    """The folder that holds any of the batch files, or None. A folder that is called "train" is no batch file."""
    for folder in (base, base / layout.folder):
        if any((folder / name).is_file() for name in layout.files):
            return folder
    return None


def _download(layout: Layout, folder: Path) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    official = getattr(datasets, layout.torchvision)
    with temporary_folder(folder) as unfinished:
        try:
            download_url(official.url, str(unfinished), official.filename, official.tgz_md5)
        except Exception as error:  # URLError, a time-out, a wrong checksum (RuntimeError), ...
            raise DataError(
                f"{folder}: {layout.torchvision} is not there, and {official.url} could not be downloaded ({error}). "
                "Is there a network? Otherwise fetch it elsewhere, unpack it, and give its folder as root."
            ) from error
        archive = unfinished / official.filename
        _take_out(archive, layout, unfinished)
        archive.unlink()


def _take_out(archive: Path, layout: Layout, folder: Path) -> None:
    """Extract the expected files of the archive, and no others."""
    try:
        with tarfile.open(archive) as tar:
            for name in layout.files:
                member = tar.getmember(f"{layout.folder}/{name}")
                content = tar.extractfile(member) if member.isfile() else None
                if content is None or member.size > MAX_FILES_BYTES:
                    raise DataError(f"{archive}: its member {member.name} is no plain file of a sensible size.")
                (folder / name).write_bytes(content.read())
    except (KeyError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{archive}: not the official archive ({error}).") from error


def read(layout: Layout, files: Files, split: str) -> Contents:
    """The images of a split. DataError: a file is damaged or has another content than expected."""
    names = _load(files[layout.meta]).get(layout.names)
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"{files[layout.meta]}: holds no list {layout.names!r} of class names.")
    classes = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]
    batches = layout.train if split == "train" else layout.test
    return Contents(classes, (row for name in batches for row in _rows(files[name], layout.labels)))


def _load(path: Path) -> dict[str, Any]:
    return read_pickle(read_bounded(path, MAX_FILES_BYTES), str(path))


def _rows(path: Path, label_key: str) -> Iterator[Row]:
    batch = _load(path)
    data, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise DataError(f"{path}: its 'data' is no uint8 array of rows of 3,072 pixels.")
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if not isinstance(labels, list) or not all(type(label) is int for label in labels) or len(labels) != len(data):
        raise DataError(f"{path}: {label_key!r} is no list of {len(data)} labels, one for each row of 'data'.")
    for row, (pixels, label) in enumerate(zip(data, labels, strict=True)):
        yield Row(pixels.reshape(3, 32, 32).transpose(1, 2, 0), label, f"{path}, row {row}")
