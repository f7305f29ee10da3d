"""Scores merged weights on held-out images; methods choose by the score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from fusiondistill.merging._at import At, Labelled
    from fusiondistill.state_dicts import StateDict

__all__ = ["Judge", "Judged", "Score", "judged"]

KEPT = 2**26
"""Pixel values of held-out images that a judge keeps between two candidates: 256 MiB, 21,845 images of 32x32."""


class Score(NamedTuple):
    """How well a network does; of two scores the larger one is better.

    Attributes:
        accuracy: the mean over the degradations of the share of right answers, 0 to 1.
        likelihood: the mean over the degradations of the mean log-likelihood in nats, at most 0; it decides between
            equal accuracies.
    """

    accuracy: float
    likelihood: float


class Judged(NamedTuple):
    """A network on held-out images.

    Attributes:
        accuracy: what the images stand under -> the share of right answers, a fraction.
        loss: the mean over these of the mean cross-entropy, in nats.
    """

    accuracy: Mapping[str, float]
    loss: float

    @property
    def mean(self) -> float:
        """The mean accuracy, a fraction."""
        return sum(self.accuracy.values()) / len(self.accuracy)


def judged(network: nn.Module, images: Mapping[str, Iterable[Labelled]]) -> Judged:
    """A network in eval mode on labelled batches under each name.

    Raises:
        ValueError: there is no image under a name.
    """
    import torch

    shares, losses = {}, []
    with torch.no_grad():
        for name, batches in images.items():
            right, seen, loss = 0, 0, 0.0
            for pixels, labels in batches:
                logits = network(pixels).double()
                right += int((logits.argmax(1) == labels).sum())
                loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
                seen += len(labels)
            if not seen:
                raise ValueError("there is no held-out image to judge by")
            shares[name] = right / seen
            losses.append(loss / seen)
    return Judged(shares, sum(losses) / len(losses))


class Judge:
    """Scores merged weights on the held-out images of all degradations, never on test images.

    A candidate is judged as it would be used: with BatchNorm's statistics as the caller sets them afterwards
    (``at.finished``).

    Args:
        experts: what is merged.
        at: with names, held-out images, and a way to build networks.
    """

    def __init__(self, experts: Sequence[StateDict], at: At) -> None:
        self.experts, self.at = experts, at
        room = KEPT // len(at.judged)
        self._kept = {name: _Kept(partial(at.validation, name), room) for name in at.judged}
        self.judged = 0
        """How many candidates were judged."""

    def __call__(self, merged: StateDict) -> Score:
        """The score of merged parameters; buffers follow from the experts'."""
        found = judged(self.at.finished(merged, self.experts), self._kept)
        self.judged += 1
        return Score(found.mean, -found.loss)


class _Kept:
    """Batches that are made once and kept, as many as have room; the rest is made anew each time."""

    def __init__(self, make: Callable[[], Iterable[Labelled]], room: int) -> None:
        self.make, self.room, self.whole = make, room, False
        self.batches: list[Labelled] = []

    def __iter__(self) -> Iterator[Labelled]:
        yield from self.batches
        if self.whole:
            return
        there, number = len(self.batches), -1
        for number, (pixels, labels) in enumerate(self.make()):
            if number < there:
                continue
            if number == len(self.batches) and self.room >= pixels.numel():
                self.room -= pixels.numel()
                self.batches.append((pixels, labels))
            yield pixels, labels
        self.whole = len(self.batches) == number + 1
