"""The metrics of an epoch by the names that all trackers show, and a training's as a TensorBoard event file."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["EVENTS", "LiveEvents", "event_file", "scalars"]

EVENTS = "events.tfevents"
"""TensorBoard reads every file whose name has ``tfevents`` in it; the folder's name is the run's."""
_VALIDATION = "validation"


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an epoch, ``train/loss``, ``validation/accuracy``, ``validation/<degradation>`` and so on.

    Args:
        row: as :class:`fusiondistill.progress.Progress` holds it; accuracies are fractions. Entries that are no metrics
            (the epoch, the number of epochs, values that are no numbers) are left out.
    """
    named: dict[str, float] = {}
    for name, value in row.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in ("epoch", "epochs", "resumed", "images") or not number:
            continue
        if name == _VALIDATION:
            tag = "validation/accuracy"
        elif name.startswith(f"{_VALIDATION}_"):
            tag = f"validation/{name.removeprefix(f'{_VALIDATION}_')}"
        else:
            tag = f"train/{name.removeprefix('train_')}"
        named[tag] = float(value)
    return named


def event_file(rows: Sequence[Mapping[str, float]], ended: float) -> bytes:
    """The epochs of a training as the bytes of an event file, a scalar for each metric and epoch.

    Args:
        rows: of all epochs, in order.
        ended: when the last one ended, in seconds since 1970; the times of the others follow from their lengths, as if
            the training had never stopped in between.
    """
    from tensorboardX import SummaryWriter

    seconds = [row["seconds"] for row in rows]
    after = [0.0, *itertools.accumulate(reversed(seconds[1:]))][::-1]
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for row, rest in zip(rows, after, strict=True):
                for tag, value in scalars(row).items():
                    if math.isfinite(value):
                        writer.add_scalar(tag, value, int(row["epoch"]), walltime=ended - rest)
        (path,) = Path(folder).iterdir()
        return path.read_bytes()


class LiveEvents:
    """The event file of a training that is going on, for TensorBoard to follow; an epoch is added at its end.

    The event file of the result takes its place under the same name, so that TensorBoard shows no epoch twice.

    Args:
        path: of the file on a disk; None: no file is written, as in a bucket, where nothing can be added to a file.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.written = 0

    def add(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the new rows, given those of all epochs so far. The training goes on where the disk is full."""
        if self.path is None or len(rows) == self.written:
            return
        data = event_file(rows[self.written :], time.time())
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)  # not the store itself, should it be gone
            with self.path.open("ab") as file:
                file.write(data[_first_record(data) :] if self.written else data)
            self.written = len(rows)


def _first_record(data: bytes) -> int:
    """The length of an event file's first record, which says its version: size, its check, the event, its check."""
    (size,) = struct.unpack("<Q", data[:8])
    return int(8 + 4 + size + 4)
