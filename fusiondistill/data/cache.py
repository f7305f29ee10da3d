"""The cache of decoded images: one entry for each split of a source, decoded once and then mapped into memory.

An entry is a folder with `images.npy` (uint8 [N, 3, H, W]), `labels.npy` (int64 [N]) and `entry.json`; it appears by
one rename. The pixels are mapped privately (copy on write): all processes of a node read one physical copy, and a
process that writes into its tensor changes its own pages, never the file.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import mmap
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fusiondistill.commits import sealed, unsealed
from fusiondistill.counting import counted
from fusiondistill.data.errors import DataError, MixedSizes
from fusiondistill.data.files import locked, temporary_folder
from fusiondistill.data.resizing import listed
from fusiondistill.data.source import Contents, Row
from fusiondistill.locations import lacks

__all__ = [
    "HEADER_BYTES",
    "MAX_SET_BYTES",
    "Decoded",
    "channel_statistics",
    "mapped",
    "open_or_decode",
    "suggested_size",
]

MAX_SET_BYTES = 2**40
"""A split that decodes to more is refused. It need not fit the memory, but the disk."""

FORMAT = 2
HEADER_BYTES = 128
IMAGES_AT_A_TIME = 256
VALUES_AT_A_TIME = 2**22

_log = logging.getLogger(__name__)


class Decoded(NamedTuple):
    """A split as the cache holds it: images uint8 [N, 3, H, W] (mapped), labels int64 [N], classes, notes."""

    images: torch.Tensor
    labels: torch.Tensor
    classes: list[str]
    notes: list[str]


def open_or_decode(folder: Path, read: Callable[[], Contents]) -> Decoded:
    """Map the entry at `folder`. A missing or damaged entry is made from `read()` first."""
    found = _open(folder)
    if found is None:
        with locked(folder):
            found = _open(folder)  # another process may have made it while this one waited
            if found is None:
                with temporary_folder(folder) as unfinished:
                    _write(unfinished, read())
                found = _open(folder)
    if found is None:
        raise DataError(
            f"{folder}: cannot be read back after it was written. Check the disk: it may be full or failing."
        )
    return found


def _open(folder: Path) -> Decoded | None:
    """The entry, or None if it is missing or damaged (then a warning says why)."""
    try:
        return _map(folder, unsealed((folder / "entry.json").read_bytes(), "entry.json"))
    except FileNotFoundError:
        if not folder.exists():
            return None
        reason = "a file of it is missing"
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        reason = str(error)
    _log.warning("%s: damaged (%s), decoding again", folder, reason)
    return None


def _map(folder: Path, entry: dict[str, Any]) -> Decoded:
    images, shape = folder / "images.npy", tuple(entry["shape"])
    status = images.stat()
    if entry["format"] != FORMAT or status.st_size != HEADER_BYTES + math.prod(shape):
        raise ValueError("images.npy has the wrong size")
    with images.open("rb") as file:
        if file.read(HEADER_BYTES) != _header(shape):
            raise ValueError("images.npy has the wrong header")
        # A write changes a file's time, and so does a copy of the cache: the digest tells which it was.
        touched = status.st_mtime_ns != entry["mtime_ns"]
        if touched and hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
            raise ValueError("images.npy has other content than was written")
    raw_labels = (folder / "labels.npy").read_bytes()
    if hashlib.sha256(raw_labels).hexdigest() != entry["labels_sha256"]:
        raise ValueError("labels.npy has other content than was written")
    labels = np.load(io.BytesIO(raw_labels), allow_pickle=False)
    # Mode "c" is MAP_PRIVATE: see the module's docstring.
    pixels: np.ndarray
    try:
        pixels = mapped(images, shape)
    except OSError as error:
        if not lacks(error):
            raise
        # A file system that maps no files: each process holds its own copy.
        pixels = np.fromfile(images, dtype=np.uint8, offset=HEADER_BYTES).reshape(shape)
    return Decoded(torch.from_numpy(pixels), torch.from_numpy(labels), list(entry["classes"]), list(entry["notes"]))


def mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A private map of the pixels; it may be larger than memory."""
    # Without MAP_NORESERVE Linux refuses a writable map that is larger than memory. Python has no name for it.
    unreserved = 0x4000 if sys.platform == "linux" else 0
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    with path.open("rb") as file:
        held = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | unreserved, prot=protection)
    return np.frombuffer(held, np.uint8, math.prod(shape), HEADER_BYTES).reshape(shape)


def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    header = buffer.getvalue()
    if len(header) != HEADER_BYTES:
        raise DataError(f"images of the shape {shape} do not fit the cache.")
    return header


def _write(folder: Path, contents: Contents) -> None:
    digest, labels, path = hashlib.sha256(), [], folder / "images.npy"
    with path.open("wb") as file:
        file.write(bytes(HEADER_BYTES))  # room for the header: the number of images is known at the end
        for images, batch_labels in _batches(contents):
            file.write(images.data)
            digest.update(images.data)
            labels += batch_labels
        if not labels:
            raise DataError("the data set holds no image.")
        shape = (len(labels), *images.shape[1:])
        file.seek(0)
        file.write(_header(shape))
    raw_labels = io.BytesIO()
    np.save(raw_labels, np.asarray(labels, dtype=np.int64))
    (folder / "labels.npy").write_bytes(raw_labels.getvalue())
    entry = {
        "format": FORMAT,
        "classes": contents.classes,
        "notes": list(contents.notes),
        "shape": shape,
        "mtime_ns": path.stat().st_mtime_ns,
        "sha256": digest.hexdigest(),
        "labels_sha256": hashlib.sha256(raw_labels.getvalue()).hexdigest(),
    }
    (folder / "entry.json").write_bytes(sealed(entry))


def _batches(contents: Contents) -> Iterator[tuple[np.ndarray, list[int]]]:
    """The checked rows as batches uint8 [<=256, 3, H, W] (one buffer, which is reused) with their labels."""
    first: Row | None = None
    buffer, labels, total = np.empty(0, np.uint8), list[int](), 0
    rows = iter(contents.rows)
    for row in rows:
        if first is None:
            first = row
            height, width, _ = row.image.shape
            buffer = np.empty((IMAGES_AT_A_TIME, 3, height, width), np.uint8)
        _check_label(row, contents.classes)
        if row.image.shape != first.image.shape:
            raise MixedSizes(_mixed(first, total // first.image.size, row, rows))
        total += row.image.size
        if total > MAX_SET_BYTES:
            raise DataError(f"{row.where}: the split decodes to more than the limit of {MAX_SET_BYTES:,} bytes.")
        buffer[len(labels)] = row.image.transpose(2, 0, 1)
        labels.append(row.label)
        if len(labels) == IMAGES_AT_A_TIME:
            yield buffer, labels
            labels = []
    if labels:
        yield buffer[: len(labels)], labels


def _check_label(row: Row, classes: list[str]) -> None:
    if not 0 <= row.label < len(classes):
        raise DataError(
            f"{row.where}: the label {row.label} is outside the {counted(len(classes), 'class')} "
            f"(0..{len(classes) - 1}). Correct the label or the class names."
        )


def _mixed(first: Row, alike: int, other: Row, rest: Iterator[Row]) -> str:
    """What to say of images of several sizes; looks at the rest of the split.

    Args:
        first, alike: the first image, and how many of its size there are up to the first ``other`` one.
    """
    met = Counter({first.image.shape[:2]: alike})
    met.update(row.image.shape[:2] for row in chain([other], rest))
    (height, width, _), (first_height, first_width, _) = other.image.shape, first.image.shape
    return (
        f"{other.where}: the image is {width}x{height}, but {first.where} is {first_width}x{first_height}. The split's "
        f"{sum(met.values()):,} images have {len(met):,} sizes: {listed(met)}. A network sees one size: write "
        f"data.size: {suggested_size(met)} (and data.fit: crop, pad or stretch)."
    )


def suggested_size(met: Counter[tuple[int, int]]) -> int:
    """A side in pixels that suits images of these sizes, (height, width) -> how many, and costs little to train on."""
    sides = sorted(min(size) for size, count in met.items() for _ in range(count))
    middle = sides[len(sides) // 2]
    return next((side for side in (64, 32) if side <= middle), middle)


def channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 [N, 3, H, W], 0..255 scale.

    Sums are integers, so the figures are exact up to one rounding and do not depend on the order of the images. The
    deviation is the population's: sqrt(E[x^2] - E[x]^2).
    """
    counts = np.zeros((3, 256), dtype=np.int64)
    for chunk in images.split(max(1, VALUES_AT_A_TIME // images[0].numel())):
        for channel in range(3):
            counts[channel] += np.bincount(chunk[:, channel].numpy().reshape(-1), minlength=256)
    values = range(256)
    mean, deviation = [], []
    for histogram in counts.tolist():
        total = sum(histogram)
        first = sum(n * value for n, value in zip(histogram, values, strict=True))
        second = sum(n * value * value for n, value in zip(histogram, values, strict=True))
        mean.append(first / total)
        deviation.append(math.sqrt((second * total - first * first) / (total * total)))
    return tuple(mean), tuple(deviation)
