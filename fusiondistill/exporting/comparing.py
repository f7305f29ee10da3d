"""Compares an exported file with the network: its answers and its speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fusiondistill.counting import counted
from fusiondistill.exporting.forms import Answer, Differs, ExportError
from fusiondistill.models.whole import together

__all__ = ["Speeds", "compared", "speeds"]

TOLERANCE = 1e-3
"""The largest difference of a logit, relative to the largest logit (at least 1): rounding stays far below it."""
PIXELS, MOST, FEWEST = 64 * 64 * 64, 64, 8
"""Of a batch: its images have so many pixels together, within these numbers of images."""
SECONDS, ROUNDS = 1.0, 3
"""A measurement takes at least so many rounds, and about so many seconds if they are short."""


def compared(classifier: nn.Module, theirs: Answer, images: torch.Tensor, form: str) -> tuple[float, float]:
    """Compare answers on images: first one image alone, then three, then whole batches.

    Args:
        classifier: what the file was made from.
        theirs: what the file gives.
        images: uint8 [n,3,H,W], n from 1.
        form: in words, for messages.

    Returns:
        The largest absolute difference of a logit, and the largest absolute logit.

    Raises:
        ExportError: the network itself gives values that are not finite.
        Differs: another shape, another label, or a logit that is further off than rounding explains.
    """
    ours = torch.cat([_logits(classifier, some) for some in images.split(_batch(images))])
    if not bool(ours.isfinite().all()):
        raise ExportError("the network gives values that are not finite on the images that it is checked on")
    apart = together(classifier) == 1
    found = torch.cat(
        [_answer(theirs, some, form) for some in (_pieces(images) if apart else images.split(_batch(images)))]
    )
    if found.shape != ours.shape:
        raise Differs(f"{form} gives {list(found.shape)} logits, not {list(ours.shape)}: nothing is written")
    largest, scale = float((found.float() - ours).abs().max()), float(ours.abs().max())
    others = int((found.argmax(1) != ours.argmax(1)).sum())
    if others or not largest <= TOLERANCE * max(1.0, scale):
        raise Differs(
            f"{form} gives another label for {others} of {len(images)} images, and its logits are off by up to "
            f"{largest:.3g} (the largest is {scale:.3g}): nothing is written"
        )
    return largest, scale


def _pieces(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Images in batches of 1, of 3, and of the usual size."""
    for some in (images[:1], images[1:4], *images[4:].split(_batch(images))):
        if len(some):
            yield some


def _batch(images: torch.Tensor) -> int:
    return max(FEWEST, min(MOST, PIXELS // (images.shape[2] * images.shape[3])))


def _logits(classifier: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = classifier(images)
    return logits.float()


def _answer(theirs: Answer, images: torch.Tensor, form: str) -> torch.Tensor:
    try:
        return theirs(images)
    except Exception as error:  # those of a runtime
        said = str(error).strip().splitlines()
        raise Differs(
            f"{form} cannot answer for {len(images)} images of {images.shape[3]}x{images.shape[2]}: "
            f"{said[0] if said else type(error).__name__}; nothing is written"
        ) from error


@dataclass(frozen=True)
class Speeds:
    """Images a second on the CPU: of torch and of another program, in batches of so many images on so many threads."""

    ours: float
    theirs: float
    batch: int
    threads: int

    def line(self, form: str) -> str:
        """Both side by side, and their ratio."""
        threads = counted(self.threads, "thread")
        ratio = self.theirs / self.ours
        both = f"torch {self.ours:,.0f} images/s, {form} {self.theirs:,.0f} ({ratio:.2f}x)"
        return f"{both}, batches of {self.batch}, {threads}"


def speeds(classifier: nn.Module, theirs: Answer, images: torch.Tensor) -> Speeds:
    """Measure both in turn; ``images``, uint8 [n,3,H,W], are repeated until they fill a batch."""
    count = _batch(images)
    batch = images.repeat(-(-count // len(images)), 1, 1, 1)[:count].contiguous()
    runs: list[Callable[[], object]] = [lambda: _logits(classifier, batch), lambda: theirs(batch)]
    taken: list[list[float]] = [[], []]
    for run in runs:
        run()
    began = time.perf_counter()
    while len(taken[0]) < ROUNDS or (time.perf_counter() - began < SECONDS and len(taken[0]) < 50):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    ours, other = (count / statistics.median(times) for times in taken)
    return Speeds(ours, other, count, torch.get_num_threads())
