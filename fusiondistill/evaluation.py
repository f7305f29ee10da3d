"""Evaluates models: right answers at every level of a degradation, predictions, likelihoods and confidences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from fusiondistill.batches import normalise
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import DegradationConfig, as_degradation
from fusiondistill.degradations import degrade
from fusiondistill.folding import piece_of
from fusiondistill.level_draws import degraded, level_address, random_levels
from fusiondistill.models.whole import names_of, single_apart, together
from fusiondistill.randomness import key, permutation
from fusiondistill.registry import WrongResult
from fusiondistill.room import check_judging
from fusiondistill.statistics import expected_calibration_error

__all__ = [
    "Conditions",
    "Counts",
    "Judged",
    "Routes",
    "evaluate",
    "judge",
    "judge_images",
    "mixed_batches",
    "predict",
    "validate",
]


class Counts(NamedTuple):
    """Right answers and images seen, int64 [L] each, one entry per level. Counts of shards add."""

    right: torch.Tensor
    seen: torch.Tensor


class Routes(NamedTuple):
    """What a router says of N images at each of L levels.

    Attributes:
        names: what it can name.
        named: int64 [L,N], places in ``names``.
        chosen: int64 [L,N], places in ``names``: whose network answers.
        levels: int64 [L,N], a rough level of the degradation that is chosen.
    """

    names: tuple[str, ...]
    named: torch.Tensor
    chosen: torch.Tensor
    levels: torch.Tensor


class Judged(NamedTuple):
    """A model's answers for N images at each of L levels, on the CPU.

    ``nll`` is the negative log-likelihood of the true class in nats, ``confidence`` the largest softmax probability, a
    fraction; both float32, and None for a model whose output is a vote. ``routes`` is what its router says, if it has
    one.
    """

    predictions: torch.Tensor
    """int64 [L,N]."""
    nll: torch.Tensor | None
    confidence: torch.Tensor | None
    routes: Routes | None = None

    def right(self, labels: torch.Tensor) -> torch.Tensor:
        """Which images are right at each level: bool [L,N], for labels int64 [N]."""
        return self.predictions == labels.cpu()

    def mean_nll(self) -> list[float | None]:
        """The mean negative log-likelihood of each level in nats; None where there is none, or it is not finite."""
        if self.nll is None:
            return [None] * len(self.predictions)
        return [_finite(float(row.double().mean())) for row in self.nll]

    def calibration_error(self, labels: torch.Tensor) -> list[float | None]:
        """The expected calibration error of each level, a fraction (15 bins, Guo et al. 2017); None as above."""
        if self.confidence is None:
            return [None] * len(self.predictions)
        pairs = zip(self.confidence, self.right(labels), strict=True)
        return [
            expected_calibration_error(sure.numpy(), right.numpy()) if sure.isfinite().all() else None
            for sure, right in pairs
        ]


_Views = Iterator[tuple[torch.Tensor, Iterator[torch.Tensor]]]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Conditions:
    """How images are degraded before a model sees them.

    The noise is a function of (seed, degradation, image index), scaled or thresholded by the level. It does not depend
    on the batch size or on order.

    Attributes:
        degradation: a registered name.
        levels: integer levels of that degradation.
        seed: of the noise.
        batch_size: images of a forward pass, rounded up to whole pieces of a model :func:`for_inference`.
        protocol: ``standard`` or ``paper``.
        parameters: of the degradation.
    """

    degradation: str
    levels: Sequence[int]
    seed: int
    batch_size: int
    protocol: str = "standard"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def shown(self, images: torch.Tensor, indices: torch.Tensor, level: int) -> torch.Tensor:
        """Degrade images uint8 [B,3,H,W] of the image indices int64 [B] to a level; uint8 [B,3,H,W]."""
        noise: dict[str, Any] = {"seed": self.seed, "indices": indices, "protocol": self.protocol}
        return degrade(images, self.degradation, level, **noise, **self.parameters)


def evaluate(
    model: nn.Module,
    image_set: ImageSet,
    degradation: str,
    levels: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    protocol: str = "standard",
    **parameters: Any,
) -> Counts:
    """Count the right answers of a model on degraded images, level by level.

    Args:
        model: takes uint8 [B,3,H,W], returns logits [B,C] (what :func:`fusiondistill.load_model` gives).
        image_set: the images, usually the test split.
        degradation, levels, seed, batch_size, protocol: see :class:`Conditions`.
        parameters: of the degradation.

    Returns:
        ``(right, seen)``, int64 [len(levels)] each.

    Example:
        >>> right, seen = evaluate(model, load_images("digits", "test"), "noise", [0, 25], seed=1, batch_size=100)
        >>> percent = 100 * right / seen
    """
    conditions = Conditions(degradation, levels, seed, batch_size, protocol, parameters)
    predictions = predict(model, image_set, conditions)
    right = (predictions == image_set.labels.to(predictions.device)).sum(1)
    return Counts(right.cpu(), torch.full_like(right, len(image_set)).cpu())


def predict(model: nn.Module, image_set: ImageSet, conditions: Conditions) -> torch.Tensor:
    """The predicted class of every image at every level, int64 [L,N]; model and images as for :func:`evaluate`."""
    order = _order(model, len(image_set))
    return _judged(model, _views(model, image_set, conditions, order), scores=False, order=order).predictions


def judge(model: nn.Module, image_set: ImageSet, conditions: Conditions) -> Judged:
    """Predictions, log-likelihoods and confidences at every level of a degradation.

    One batch of degraded images is held at a time. The result takes 16 bytes per image and level.

    Args:
        model, image_set: as for :func:`evaluate`. A model whose attribute ``gives`` is "votes" has no probabilities.
        conditions: how the images are degraded.

    Example:
        >>> judged = judge(model, load_images("digits", "test"), Conditions("jpeg", [1, 50], seed=1, batch_size=500))
        >>> judged.mean_nll()
    """
    order = _order(model, len(image_set))
    views = _views(model, image_set, conditions, order)
    return _judged(model, views, scores=_has_probabilities(model), order=order)


def _order(model: nn.Module, images: int) -> torch.Tensor | None:
    """The order in which images go through a model that looks at several together: one at random, int64 [N].

    A set may be sorted by class. None: as they stand, since no answer depends on it.
    """
    return permutation(key("together"), images) if together(model) > 1 else None


def _has_probabilities(model: nn.Module) -> bool:
    return getattr(model, "gives", "logits") != "votes"


def judge_images(model: nn.Module, levels: Sequence[torch.Tensor], labels: torch.Tensor, *, batch_size: int) -> Judged:
    """:func:`judge` for images that are degraded already, such as a published corruption set.

    Args:
        model: as in :func:`evaluate`.
        levels: uint8 [N,3,H,W] for each level, the same images in the same order; views of a file are read batch by
            batch.
        labels: int64 [N].
        batch_size: images of a forward pass.

    Raises:
        ValueError: another number of images than labels at some level.
    """
    if any(len(images) != len(labels) for images in levels):
        raise ValueError(f"{len(labels)} labels for levels of {[len(images) for images in levels]} images")
    size, device = _whole_pieces(model, batch_size, levels[0], len(labels)), _device(model)

    order = _order(model, len(labels))

    def views() -> _Views:
        for start in range(0, len(labels), size):
            part = slice(start, start + size) if order is None else order[start : start + size]
            yield labels[part].to(device), (images[part].to(device) for images in levels)

    return _judged(model, views(), scores=_has_probabilities(model), order=order)


def _views(model: nn.Module, image_set: ImageSet, conditions: Conditions, order: torch.Tensor | None) -> _Views:
    """For each batch its labels and, one after another, its images at each level, all on the model's device."""
    one, device = image_set.gather([0])[0], _device(model)
    size = _whole_pieces(model, conditions.batch_size, one, len(image_set))
    for start in range(0, len(image_set), size):
        rows = torch.arange(start, min(start + size, len(image_set)))
        rows = rows if order is None else order[rows]
        images, labels = (tensor.to(device) for tensor in image_set.gather(rows))
        indices = rows.to(device)
        yield labels, (conditions.shown(images, indices, level) for level in conditions.levels)


@torch.no_grad()
def _judged(model: nn.Module, views: _Views, *, scores: bool, order: torch.Tensor | None) -> Judged:
    """A model's answers in the order of the images, which come in that of ``order``."""
    model.eval()
    batches, names = [], names_of(model)
    for labels, levels in views:
        rows = []
        for images in levels:
            logits, route = single_apart(model, images)
            if logits.dim() != 2 or len(logits) != len(images):
                raise WrongResult(f"a network must give logits [{len(images)}, classes], not {list(logits.shape)}")
            said = () if route is None else (route.named, route.chosen + 1, route.levels)
            rows.append((logits.argmax(1), *said, *(_scores(logits, labels) if scores else ())))
        batches.append([torch.stack(column) for column in zip(*rows, strict=True)])
    back = slice(None) if order is None else order.argsort()
    predictions, *rest = (torch.cat(parts, 1).cpu()[:, back] for parts in zip(*batches, strict=True))
    routes = Routes(names, *(rest.pop(0) for _ in range(3))) if names else None
    nll, confidence = rest if scores else (None, None)
    return Judged(predictions, nll, confidence, routes)


def _scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(negative log-likelihood in nats, largest probability), float32 [B] each, worked out in float64."""
    logarithms = logits.double().log_softmax(1)
    nll = -logarithms.gather(1, labels[:, None]).squeeze(1)
    return nll.float(), logarithms.amax(1).exp().float()


def _whole_pieces(model: nn.Module, batch_size: int, images: torch.Tensor, count: int) -> int:
    """The batch size, rounded up to whole pieces of the model, so that only the last piece needs padding.

    Args:
        images: some like those that are to be judged.
        count: of all of them.
    """
    if batch_size < 2:
        raise ValueError(f"batch_size is {batch_size}; at least 2 images are needed for a forward pass")
    check_judging(images.shape[1:], min(batch_size, count), _device(model))
    piece = piece_of(model, *images.shape[2:])
    return -(-batch_size // piece) * piece


def _device(model: nn.Module) -> torch.device:
    first = next(iter(model.parameters()), None)
    return first.device if first is not None else torch.device("cpu")


VALIDATED = 2**23
"""Values of the images that are validated at a time: 500 images of 74x74 pixels, 55 of 224x224."""


@torch.no_grad()
def validate(
    model: nn.Module,
    image_set: ImageSet,
    degradations: Sequence[str | DegradationConfig],
    *,
    seed: int,
    device: torch.device,
    protocol: str,
    batch_size: int = 500,
    channels_last: bool = False,
    epoch: int | None = None,
    coupled: bool = False,
    apart: Mapping[str, nn.Module] = MappingProxyType({}),
) -> dict[str, torch.Tensor]:
    """Which images a model in training classifies right: each image once per degradation, at one random level.

    Levels and noise are functions of (seed, degradation, image index) and, where it is given, of the epoch.

    Args:
        model: takes normalised float32; left in eval mode.
        degradations: names, or with their own levels and id; empty for clean images, reported as ``clean``.
        epoch: whose levels and noise; None: those on which every epoch is judged.
        batch_size: images of a forward pass; fewer where so many have more than :data:`VALIDATED` values.
        coupled: see :func:`fusiondistill.batches.level_address`.
        apart: degradation's id -> the network that classifies its images in place of ``model``.

    Returns:
        bool [N] on ``device`` for each degradation, by its id.
    """
    for network in (model, *apart.values()):
        network.eval()
    batch_size = min(batch_size, max(2, VALIDATED // image_set.gather([0])[0].numel()))
    given = [None if one is None else as_degradation(one) for one in degradations or (None,)]
    when = () if epoch is None else (epoch,)
    pixels_of = key(seed, "validation", *when)
    right: dict[str, list[torch.Tensor]] = {one.id if one else "clean": [] for one in given}
    for start in range(0, len(image_set), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(image_set)))
        images, labels = image_set.gather(indices)
        images, labels, indices = images.to(device), labels.to(device), indices.to(device)
        for one in given:
            seen = images
            if one is not None:
                address = key(seed, "validation level", *when, level_address(one, coupled))
                levels = random_levels(one, address, indices)
                seen = degraded(images, one, levels, seed=pixels_of, indices=indices, protocol=protocol)
            pixels = normalise(seen, image_set.mean, image_set.std)
            if channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            name = one.id if one else "clean"
            right[name].append(single_apart(apart.get(name, model), pixels)[0].argmax(1) == labels)
    return {name: torch.cat(parts) for name, parts in right.items()}


MIXED_BATCH = 128
"""Images of each degradation in a batch on which BatchNorm's statistics are recomputed."""


def mixed_batches(
    image_set: ImageSet,
    degradations: Sequence[str | DegradationConfig],
    *,
    seed: int,
    device: torch.device,
    protocol: str,
    batch_size: int = MIXED_BATCH,
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Normalised batches that hold every degradation in equal parts, with their labels, without augmentation.

    Yields:
        float32 [D * b,3,H,W] and int64 [D * b], with b at most ``batch_size``; levels are random per image.
    """
    for start in range(0, len(image_set), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(image_set)))
        images, labels = image_set.gather(indices)
        images, indices = images.to(device), indices.to(device)
        parts = []
        for one in map(as_degradation, degradations):
            levels = random_levels(one, key(seed, "mixed level", one.id), indices)
            seen = degraded(images, one, levels, seed=key(seed, "mixed"), indices=indices, protocol=protocol)
            parts.append(normalise(seen, image_set.mean, image_set.std))
        yield torch.cat(parts), labels.to(device).repeat(len(parts))
