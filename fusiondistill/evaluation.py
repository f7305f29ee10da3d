"""Counts of right answers for every level of a degradation, and the predictions themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from fusiondistill.batches import normalise, random_levels
from fusiondistill.data import ImageSet
from fusiondistill.degradations import degrade
from fusiondistill.randomness import key

__all__ = ["Counts", "evaluate", "mixed_batches", "predict", "validate"]


class Counts(NamedTuple):
    """Right answers and images seen, int64 [L] each, one entry per level. Counts of shards add."""

    right: torch.Tensor
    seen: torch.Tensor


def evaluate(
    model: nn.Module,
    image_set: ImageSet,
    degradation: str,
    levels: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    protocol: str = "standard",
) -> Counts:
    """Count the right answers of a model on degraded images, level by level.

    The noise is a function of (seed, degradation, image index), scaled or thresholded by the level; nothing depends
    on the batch size or on order.

    Args:
        model: takes uint8 [B,3,H,W], returns logits [B,C] (what :func:`fusiondistill.load_model` gives).
        image_set: the images, usually the test split.
        degradation: a registered name.
        levels: integer levels of that degradation.
        seed: of the noise.
        batch_size: images of a forward pass.
        protocol: ``standard`` or ``paper``.

    Returns:
        ``(right, seen)``, int64 [len(levels)] each.

    Example:
        >>> right, seen = evaluate(model, load_images("digits", "test"), "noise", [0, 25], seed=1, batch_size=100)
        >>> percent = 100 * right / seen
    """
    predictions = predict(model, image_set, degradation, levels, seed=seed, batch_size=batch_size, protocol=protocol)
    right = (predictions == image_set.labels.to(predictions.device)).sum(1)
    return Counts(right.cpu(), torch.full_like(right, len(image_set)).cpu())


@torch.no_grad()
def predict(
    model: nn.Module,
    image_set: ImageSet,
    degradation: str,
    levels: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    protocol: str = "standard",
) -> torch.Tensor:
    """The predicted class of every image at every level, int64 [L,N]. Arguments as :func:`evaluate`."""
    if batch_size < 2:
        raise ValueError(f"batch_size is {batch_size}; at least 2 images are needed for a forward pass")
    device = _device(model)
    model.eval()
    columns = []
    for start in range(0, len(image_set), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(image_set)))
        images, _ = image_set.gather(indices)
        images, indices = images.to(device), indices.to(device)
        rows = []
        for level in levels:
            seen = degrade(images, degradation, level, seed=seed, indices=indices, protocol=protocol)
            rows.append(_forward(model, seen).argmax(1))
        columns.append(torch.stack(rows))
    return torch.cat(columns, dim=1)


def _device(model: nn.Module) -> torch.device:
    first = next(iter(model.parameters()), None)
    return first.device if first is not None else torch.device("cpu")


def _forward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of a batch. One image alone takes other kernels than a batch does, so it is never alone."""
    if len(images) == 1:
        return model(images.expand(2, -1, -1, -1))[:1]
    return model(images)


@torch.no_grad()
def validate(
    model: nn.Module,
    image_set: ImageSet,
    degradations: Sequence[str],
    *,
    seed: int,
    device: torch.device,
    protocol: str,
    batch_size: int = 500,
    channels_last: bool = False,
) -> dict[str, torch.Tensor]:
    """Which images a model in training gets right: each image once per degradation, at one random level.

    Levels and noise are functions of (seed, degradation, image index): every epoch is judged on the same pixels.

    Args:
        model: takes normalised float32; left in eval mode.
        degradations: names; empty for clean images, reported as ``clean``.

    Returns:
        bool [N] on ``device`` for each degradation.
    """
    model.eval()
    names: Sequence[str | None] = degradations or (None,)
    right: dict[str, list[torch.Tensor]] = {name or "clean": [] for name in names}
    for start in range(0, len(image_set), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(image_set)))
        images, labels = image_set.gather(indices)
        images, labels, indices = images.to(device), labels.to(device), indices.to(device)
        for name in names:
            seen = images
            if name is not None:
                levels = random_levels(name, key(seed, "validation level", name), indices)
                seen = degrade(images, name, levels, seed=key(seed, "validation"), indices=indices, protocol=protocol)
            pixels = normalise(seen, image_set.mean, image_set.std)
            if channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            right[name or "clean"].append(_forward(model, pixels).argmax(1) == labels)
    return {name: torch.cat(parts) for name, parts in right.items()}


def mixed_batches(
    image_set: ImageSet,
    degradations: Sequence[str],
    *,
    seed: int,
    device: torch.device,
    protocol: str,
    batch_size: int = 128,
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
        for name in degradations:
            levels = random_levels(name, key(seed, "mixed level", name), indices)
            seen = degrade(images, name, levels, seed=key(seed, "mixed"), indices=indices, protocol=protocol)
            parts.append(normalise(seen, image_set.mean, image_set.std))
        yield torch.cat(parts), labels.to(device).repeat(len(parts))
