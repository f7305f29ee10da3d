"""The benchmark of images that do not fit the memory: read ahead of need, beside straight out of the file's map."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from fusiondistill.batches import Pipeline
from fusiondistill.bench import pictures, torch_threads
from fusiondistill.data import ImageSet
from fusiondistill.data.cache import HEADER_BYTES, mapped
from fusiondistill.devices import device_of
from fusiondistill.feeding import bytes_of

__all__ = ["bench_reading"]

_PICTURES = 64


def bench_reading(
    device: str = "cpu",
    *,
    size: int = 224,
    gigabytes: float = 2.0,
    batch: int = 64,
    batches: int = 20,
    repeats: int = 3,
    degradations: Sequence[str] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Training batches per second, in images, of a file that the system has in memory, and of one that it has not.

    One thread makes the batches of clean training (flip, padded crop, cutout); no network is trained. The two sides
    take turns. The file lies in the folder for temporary files. Where it fits the memory, the system may read all of it
    ahead by itself: limit the memory of the process to less than the file to see what a larger set would do
    (``systemd-run --scope -p MemoryMax=1G``, or a control group).

    Args:
        device: where batches are made.
        size: side of the square images.
        gigabytes: of the file.
        batch, batches: images of a batch, and how many batches a turn has.
        repeats: the medians of so many turns are reported.
        degradations: of the training; default: none.
        progress: called with each finished row.

    Returns:
        One dict for each state of the file: ``name``, ``ours`` (read ahead), ``reference`` (straight out of the map, on
        a GPU: after a copy of all images to it), ``ratio``, ``unit`` ("images/s"), ``limit``.

    Raises:
        ValueError: a device that is not there.
    """
    where = device_of(device)
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        path = Path(folder, "images.npy")
        shape = (max(2, int(gigabytes * 1e9 / (3 * size * size))), 3, size, size)
        _write(path, shape)
        for state in ("in memory", "on disk"):
            times: dict[bool, list[float]] = {True: [], False: []}
            for ahead in (True, False) * repeats:
                _forget(path) if state == "on disk" else _remember(path)
                times[ahead].append(_seconds(path, shape, ahead, where, batch, batches, tuple(degradations or ())))
            seen = min(shape[0], batch * batches) * max(1, len(degradations or ()))
            ours, reference = (seen / statistics.median(times[ahead]) for ahead in (True, False))
            rows.append(
                {
                    "name": f"{size}x{size}, {gigabytes:g} GB {state}",
                    "ours": round(ours),
                    "reference": round(reference),
                    "ratio": round(ours / reference, 2),
                    "unit": "images/s",
                    "limit": f"{'the disk' if state == 'on disk' else 'one thread'}; n = {repeats}",
                }
            )
            if progress:
                progress(rows[-1])
    return rows


def _write(path: Path, shape: tuple[int, ...]) -> None:
    block = pictures(_PICTURES, shape[2]).numpy()
    with path.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for start in range(0, shape[0], _PICTURES):
            file.write(block[: shape[0] - start].data)
        file.flush()
        os.fsync(file.fileno())


def _remember(path: Path) -> None:
    """Read the file once, so that the system has it in memory."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass


def _forget(path: Path) -> None:
    """Let the system drop the file from its memory, where it can be asked to."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(
    path: Path, shape: tuple[int, ...], ahead: bool, device: torch.device, batch: int, batches: int, names: Any
) -> float:
    """How long so many batches take, through a map of the file of their own."""
    pixels = torch.from_numpy(mapped(path, shape))
    statistics_ = ((127.0,) * 3, (64.0,) * 3)
    images = ImageSet("bench", pixels, torch.zeros(shape[0], dtype=torch.int64), ["one"], statistics=statistics_)
    pipeline = Pipeline(
        images, names, 0, batch, True, 4, shape[2] // 2, "independent", None, "standard", device,
        limit=0 if ahead else bytes_of(images),
    )  # fmt: skip
    began = time.perf_counter()
    for _ in islice(pipeline.epoch(0), batches):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
