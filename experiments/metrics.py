"""The metrics of an epoch by the names that all trackers show, and a training's as a TensorBoard event file."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["EVENTS", "event_file", "scalars"]

EVENTS = "events.tfevents"
"""TensorBoard reads every file whose name has ``tfevents`` in it; the folder's name is the run's."""
_VALIDATION = "validation"


def scalars(row: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an epoch, ``train/loss``, ``validation/accuracy``, ``validation/<degradation>`` and so on.

    Args:
        row: as :class:`fusiondistill.training.Progress` holds it; accuracies are fractions. What is no metric of an
            epoch (its number, how many there are, None) is left out.
    """
    named: dict[str, float] = {}
    for name, value in row.items():
        if name in ("epoch", "epochs", "resumed", "unit", "images") or value is None:
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
