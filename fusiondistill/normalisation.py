"""Finds the mean and std of a network's training where its file has none: compares common ones on training images.

Each candidate normalises the same images. What counts is how many of them the network gets right, and how well what its
BatchNorm layers see agrees with the statistics that they hold from the training: these know mean and contrast of the
images that it was trained on. The test split plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fusiondistill.data import ImageSet
from fusiondistill.pixel_scale import of_unit

__all__ = ["COMMON", "Tried", "candidates", "compared", "looked_at", "other_order", "winner"]

Numbers = tuple[float, ...]
Statistics = tuple[Numbers, Numbers]


def _unit(mean: Numbers, std: Numbers) -> Statistics:
    """Statistics on the scale 0..255, of those on 0..1."""
    return of_unit(mean), of_unit(std)


COMMON: Mapping[str, Statistics] = {
    "ImageNet's": _unit((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5 and 0.5": _unit((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0..1 without normalisation": _unit((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "0..255 without normalisation": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "CIFAR-10's": _unit((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "CIFAR-10's, with the mean of its images' deviations": _unit((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR-100's": _unit((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Common normalisations, on the scale 0..255: name -> (mean, std)."""
OWN = "the training images' own"
MOST = 512
"""Images that are looked at, at most."""
SURE = 0.001
"""The largest probability of so many more right answers by chance."""
CLOSER = 0.5
"""A winner's BatchNorm sees values at most so far from its statistics, relative to any other's."""
CLOSE = 0.02
"""And at most so far, in nats a channel. Statistics that are farther off are not those of such images: those of an
augmentation that hides parts, or of weights that still moved fast, under which another contrast may seem to fit."""
ALIKE = 1.5
"""Normalisations that differ less, of 255, are one."""
LEAST = 128
"""Images that are looked at, at least, where they are large: a forward pass of these takes long on a CPU."""


@dataclass(frozen=True)
class Tried:
    """What a network makes of the images under one normalisation.

    Attributes:
        name: of the normalisation.
        mean, std: on the scale 0..255.
        right: which images it gets right, bool [N].
        predicted: the class of each image, int64 [N].
        nll: the mean negative log-likelihood of the true class in nats.
        distance: how far what BatchNorm layers see lies from their statistics, in nats a channel (the mean divergence
            of normal distributions); None: the network has none.
    """

    name: str
    mean: Numbers
    std: Numbers
    right: torch.Tensor
    predicted: torch.Tensor
    nll: float
    distance: float | None

    @property
    def accuracy(self) -> float:
        """A fraction."""
        return float(self.right.double().mean())

    def __str__(self) -> str:
        seen = "" if self.distance is None else f", BatchNorm off by {self.distance:.3g}"
        return f"{self.name}: {100 * self.accuracy:.1f} % right, loss {self.nll:.3g}{seen}"


def candidates(own: Statistics) -> dict[str, Statistics]:
    """The common normalisations, and that of the training images; one of two that are nearly the same.

    Args:
        own: mean and std of the training images, on the scale 0..255.
    """
    found = dict(COMMON)
    if all(_apart(own, other) > ALIKE for other in COMMON.values()):
        found[OWN] = (tuple(own[0]), tuple(own[1]))
    return found


def _apart(one: Statistics, other: Statistics) -> float:
    """The largest difference of two normalisations."""
    return max(abs(a - b) for i in (0, 1) for a, b in zip(one[i], other[i], strict=True))


def looked_at(images: ImageSet) -> ImageSet:
    """The images that are compared on: at most :data:`MOST`, fewer where they are large, balanced over classes."""
    height, width = images.size
    most = min(MOST, max(LEAST, MOST * 64 * 64 // (height * width)))
    return images if len(images) <= most else images.take(most)


def compared(network: nn.Module, images: ImageSet, tried: Mapping[str, Statistics], batch: int = 64) -> list[Tried]:
    """Judge a network under each normalisation, the best first: most right answers, then the smallest loss.

    Args:
        network: takes normalised images, float32 [B,3,H,W], and gives logits [B,classes]; in eval mode afterwards.
        images: training images, as :func:`looked_at` gives them.
        tried: name -> (mean, std) on the scale 0..255.
    """
    found = [_judged(network.eval(), images, name, *statistics, batch) for name, statistics in tried.items()]
    return sorted(found, key=lambda one: (-int(one.right.sum()), one.nll))


def _judged(network: nn.Module, images: ImageSet, name: str, mean: Numbers, std: Numbers, batch: int) -> Tried:
    layers = [one for one in network.modules() if isinstance(one, _BatchNorm) and one.running_mean is not None]
    seen = {layer: _Moments() for layer in layers}
    hooks = [layer.register_forward_pre_hook(moments) for layer, moments in seen.items()]
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    predicted, right, nll = [], [], []
    try:
        with torch.no_grad():
            for start in range(0, len(images), batch):
                pixels, labels = images.gather(range(start, min(start + batch, len(images))))
                logits = network((pixels - shift) / scale).float()
                predicted.append(logits.argmax(1))
                right.append(predicted[-1] == labels)
                nll.append(F.cross_entropy(logits, labels, reduction="none"))
    finally:
        for hook in hooks:
            hook.remove()
    far = [moments.distance(layer) for layer, moments in seen.items() if moments.count]
    loss = float(torch.cat(nll).double().mean())
    distance = sum(far) / len(far) if far else None
    return Tried(name, mean, std, torch.cat(right), torch.cat(predicted), loss, distance)


def other_order(tried: Sequence[Tried], images: ImageSet) -> tuple[Tried, list[int]] | None:
    """Whether a network's outputs seem to stand in another order of classes than the images'.

    Args:
        tried: as :func:`compared` gives it for these images.

    Returns:
        the normalisation under which most images would be right, and for each output the class that it seems to be;
        None where that is not at least half of the images, or not twice as many as are right in the images' order.
    """
    from scipy.optimize import linear_sum_assignment

    best, most, order = None, 0, list[int]()
    labels, count = images.gather(range(len(tried[0].right)))[1], len(images.classes)
    for one in tried:
        together = torch.zeros(count, count, dtype=torch.int64)
        together.index_put_((one.predicted, labels), torch.ones_like(labels), accumulate=True)
        outputs, classes = linear_sum_assignment(together.numpy(), maximize=True)
        agreed = int(together[outputs, classes].sum())
        if agreed > most:
            best, most, order = one, agreed, classes.tolist()
    if best is None or 2 * most < len(labels) or most < 2 * int(best.right.sum()):
        return None
    return best, order


class _Moments:
    """Mean and variance of what reaches a layer, a channel each, over all batches."""

    def __init__(self) -> None:
        self.count = 0
        self.sum: Any = 0.0
        self.squares: Any = 0.0

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].detach().double().transpose(0, 1).flatten(1)
        self.count += values.shape[1]
        self.sum = self.sum + values.sum(1)
        self.squares = self.squares + values.square().sum(1)

    def distance(self, layer: _BatchNorm) -> float:
        """The mean over channels of KL(seen || held), both taken as normal."""
        assert layer.running_mean is not None and layer.running_var is not None
        mean = self.sum / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(0)
        held, eps = layer.running_var.double() + layer.eps, layer.eps
        ratio = (variance + eps) / held
        terms = ratio - 1 - ratio.log() + (mean - layer.running_mean.double()).square() / held
        return float((terms / 2).mean())


def winner(tried: Sequence[Tried]) -> Tried | None:
    """The normalisation that is clearly the right one; None: it cannot be told.

    The winner passes three tests:

    - its statistics lie close to what BatchNorm layers see (:data:`CLOSE`), and closer than under any other
      (:data:`CLOSER`);
    - no other has a smaller loss;
    - no other has significantly more right answers (a sign test over the images that one of two gets right, p at most
      :data:`SURE`).

    Right answers alone do not tell: measured, a network that was trained for a short time is better under a wrong
    contrast, a ResNet by 4 points, a vision transformer by 32. So without BatchNorm nothing does.
    """
    return next((one for one in tried if all(_beats(one, other) for other in tried if other is not one)), None)


def _beats(one: Tried, other: Tried) -> bool:
    gained = int((one.right & ~other.right).sum())
    lost = int((other.right & ~one.right).sum())
    if one.nll > other.nll or one.distance is None or other.distance is None:
        return False
    return _by_chance(lost, gained) > SURE and one.distance <= min(CLOSE, CLOSER * other.distance)


def _by_chance(gained: int, lost: int) -> float:
    """The probability of at least ``gained`` of ``gained + lost`` fair coins."""
    whole = gained + lost
    return sum(comb(whole, k) for k in range(gained, whole + 1)) / 2**whole
