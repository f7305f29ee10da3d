"""Stores the epochs of a training: every one on a disk, fewer in a bucket, where an upload takes longer."""

from __future__ import annotations

import time

from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.store import Store

__all__ = ["ProgressWriter"]

PART = 0.1
"""The part of a training's time that storing its epochs in a bucket may take."""


class ProgressWriter:
    """Stores the epochs of one training, by one process.

    On a disk (or NFS) every epoch is stored. An upload to a bucket may take longer than an epoch. There the first epoch
    is stored, then each that ends at least ten upload times after the last upload. The very last epoch is not, since
    the result itself follows. An interrupted training goes on from the last stored epoch and comes to the same weights:
    every epoch is a function of its number and of the state before it.

    Args:
        attempt: part of the names of the files.
    """

    def __init__(self, store: Store, stage: Stage, attempt: str) -> None:
        self.store, self.stage, self.attempt = store, stage, attempt
        self.made_from = store.made_from(stage)  # as they were when this training read them
        self.not_before = 0.0
        self.written = 0

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether an epoch (from 1) that just ended is to be stored."""
        return not self.store.remote or (epoch < epochs and time.monotonic() >= self.not_before)

    def save(self, epoch: int, state: bytes) -> None:
        """Store the state after an epoch."""
        began = time.monotonic()
        slot = self.written % 2 if self.store.remote else None
        self.store.save_progress(self.stage, epoch, state, self.attempt, self.made_from, slot)
        self.written += 1
        ended = time.monotonic()
        self.not_before = ended + (ended - began) / PART
