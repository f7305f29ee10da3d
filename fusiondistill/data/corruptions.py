"""Published corruption sets in the layout of CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich, 2019).

A folder with `<corruption>.npy`, uint8 [5 * N, 32, 32, 3], for each corruption: the same N images at severity 1, then
at severity 2, up to 5; and `labels.npy`, the N labels five times over (or once).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch

from fusiondistill.data.errors import DataError, unknown
from fusiondistill.data.files import cache_folder, recalled, remember

__all__ = ["SEVERITIES", "check_corruptions", "corruption_digest", "corruption_names", "load_corruption"]

SEVERITIES = range(1, 6)
_LABELS = "labels"
_LAYOUT = "uint8 [5 * N, height, width, 3]: the same N images at severities 1 to 5"


def corruption_names(folder: str | Path) -> tuple[str, ...]:
    """The corruptions of a folder, in alphabetical order: its `.npy` files but the labels.

    Raises:
        DataError: no such folder, or no corruption in it.
    """
    try:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix == ".npy" and path.name[0] != ".")
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as a folder ({error.strerror or error}).") from error
    names = tuple(path.stem for path in files if path.stem != _LABELS)
    if not names:
        raise DataError(f"{folder}: holds no corruption. Expected <corruption>.npy, {_LAYOUT}, and labels.npy.")
    return names


def corruption_digest(folder: str | Path, name: str) -> str:
    """sha256 over the content of a corruption's file and of the labels, 64 hex digits, independent of the folder.

    It is cached under the files' paths, sizes and times, so that unchanged files are read once.

    Raises:
        DataError: no such corruption, or a file that cannot be read.
    """
    paths = [_path(folder, name), _path(folder, _LABELS)]
    try:
        status = [path.stat() for path in paths]
        touched = [[os.path.abspath(path), s.st_size, s.st_mtime_ns] for path, s in zip(paths, status, strict=True)]  # noqa: PTH100
        known_by = hashlib.sha256(json.dumps(["corruption", touched]).encode()).hexdigest()
        memo = cache_folder() / "fingerprints" / f"{known_by}.json"
        if known := recalled(memo):
            return str(known["fingerprint"])
        digest = hashlib.sha256(b"fusiondistill corruption\n")
        for path in paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read ({error.strerror or error}).") from error
    remember(memo, {"fingerprint": digest.hexdigest(), "source": name})
    return digest.hexdigest()


def load_corruption(folder: str | Path, name: str, severity: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One severity of a corruption. Its pixels are read from the file when they are used.

    Args:
        folder: where the set lies.
        name: one of :func:`corruption_names`.
        severity: 1 to 5.
        classes: how many there are; labels run from 0 to `classes` - 1.

    Returns:
        uint8 [N,3,H,W], a view of the memory-mapped file (a write into it stays in this process), and int64 [N].

    Raises:
        DataError: no such corruption or severity, or a problem that :func:`check_corruptions` finds, too.
    """
    if severity not in SEVERITIES:
        raise DataError(f"{folder}: severities are 1 to 5, not {severity}.")
    pixels = _pixels(_path(folder, name))
    n = len(pixels) // 5
    labels = _labels(Path(folder), n, classes)
    part = torch.from_numpy(pixels[(severity - 1) * n : severity * n])
    return part.permute(0, 3, 1, 2), labels


def check_corruptions(
    folder: str | Path, classes: int, size: tuple[int, int] | None = None, test_labels: torch.Tensor | None = None
) -> None:
    """Check every file of a corruption set: headers, sizes and all labels, but no pixels.

    Args:
        folder: where the set lies.
        classes: of the data set that it belongs to; the highest must occur, else the labels are another data set's.
        size: (height, width) of that data set's images; None: any.
        test_labels: int64 [M], of its test split, whose images a set of as many images has in the same order.

    Raises:
        DataError: a folder or file is missing, or the folder holds no corruption; a file is cut short, no plain array,
            or of another type or shape; numbers of images and labels do not fit each other; or the classes are in
            another order than the data set's.
    """
    for name in corruption_names(folder):
        pixels = _pixels(_path(folder, name))
        labels = _labels(Path(folder), len(pixels) // 5, classes)
        if (found := int(labels.max()) + 1) != classes:
            raise DataError(f"{folder}: its labels are those of {found} classes, the data set has {classes}.")
        if size and pixels.shape[1:3] != size:
            shown = " x ".join(map(str, pixels.shape[1:3]))
            raise DataError(
                f"{_path(folder, name)}: images of {shown} pixels, the data set's are {size[0]} x {size[1]}."
            )
    if test_labels is not None:
        _check_order(Path(folder), labels, test_labels)


def _check_order(folder: Path, labels: torch.Tensor, ours: torch.Tensor) -> None:
    """Refuse labels that are the data set's under other numbers: each class stands for one other throughout."""
    if len(labels) != len(ours) or torch.equal(labels, ours):
        return
    pairs = sorted({(int(a), int(b)) for a, b in zip(labels, ours, strict=True)})
    if len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
        told = ", ".join(f"{a} is {b}" for a, b in pairs if a != b)
        raise DataError(
            f"{folder / f'{_LABELS}.npy'}: numbers the classes in another order than the data set ({told[:200]}). "
            "Write the labels with the data set's numbers."
        )


def _path(folder: str | Path, name: str) -> Path:
    if name != _LABELS and name not in (known := corruption_names(folder)):
        raise unknown("corruption", name, known)
    return Path(folder) / f"{name}.npy"


def _array(path: Path) -> np.ndarray:
    """A .npy file, mapped into memory such that writes stay in this process; never unpickled."""
    try:
        array = np.lib.format.open_memmap(path, mode="c")
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing.") from error
    except Exception as error:  # numpy raises nearly everything on damaged headers
        raise DataError(f"{path}: is no plain .npy file, or is cut short ({error}). Fetch it again.") from error
    expected = array.offset + array.nbytes
    if (size := path.stat().st_size) != expected:
        raise DataError(f"{path}: has {size:,} bytes, its header announces {expected:,}. Fetch it again.")
    return array


def _pixels(path: Path) -> np.ndarray:
    array = _array(path)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or len(array) % 5 or not array.size:
        raise DataError(f"{path}: holds {array.dtype} {list(array.shape)}, expected {_LAYOUT}.")
    return array


def _labels(folder: Path, n: int, classes: int) -> torch.Tensor:
    """The labels of the n images, int64 [n]."""
    path = folder / f"{_LABELS}.npy"
    array = _array(path)
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) not in (n, 5 * n):
        expected = f"integers [{5 * n}] (or [{n}]), one per image"
        raise DataError(f"{path}: holds {array.dtype} {list(array.shape)}, expected {expected}.")
    rounds = np.asarray(array).reshape(-1, n)
    if (different := (rounds != rounds[0]).any(1)).any():
        raise DataError(f"{path}: severity {int(different.argmax()) + 1} has other labels than severity 1.")
    if (wrong := (rounds[0] < 0) | (rounds[0] >= classes)).any():
        row = int(wrong.argmax())
        raise DataError(f"{path}: row {row} is {rounds[0][row]}, expected 0 to {classes - 1}, as there are {classes}.")
    return torch.from_numpy(rounds[0].astype(np.int64))
