"""Training as it is usually written, to compare with: one image at a time on the CPU, batches out of a DataLoader."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fusiondistill.data import ImageSet
from fusiondistill.degradations import find
from fusiondistill.degradations.machinery.reference import apply_package
from fusiondistill.losses.feature import cosine_feature_loss
from fusiondistill.recipe import Recipe

__all__ = ["usual_way"]

_AHEAD = 2
"""Batches that each process of a DataLoader holds ready."""


def usual_way(
    network: nn.Module,
    teachers: Sequence[nn.Module],
    images: ImageSet,
    degradations: Sequence[str],
    *,
    recipe: Recipe,
    device: torch.device,
    steps: int,
    repeats: int,
) -> list[float]:
    """Images per second of a loop that stands for the original, in each of some turns.

    Each image is flipped, degraded by imagedegrade (once for the student), padded, cropped and turned into a tensor by
    a process of a DataLoader, one process for each core. The step is eager float32 in the default layout and reads the
    loss and the number of right answers back.

    Args:
        network: the student, on the device.
        teachers: one for each degradation, or none.
        images: with two teachers' views and more, every image comes under each degradation.
        degradations: the paper's.
        recipe: batch size, padding and loss weights.
        device: where the networks are.
        steps: of a turn.
        repeats: turns.
    """
    optimizer = torch.optim.RAdam(network.parameters(), lr=recipe.optimizer.lr, weight_decay=1e-4)
    workers = os.cpu_count() or 1
    stream = _Stream(images, degradations, recipe, bool(teachers))
    loader = DataLoader(
        stream, batch_size=None, num_workers=workers, prefetch_factor=_AHEAD, pin_memory=device.type == "cuda"
    )
    batches, rates = iter(loader), []
    for _ in range((_AHEAD + 1) * workers):  # made while the processes started
        _step(network, teachers, optimizer, next(batches), recipe, device)
    for _ in range(repeats):
        began, done = time.perf_counter(), 0
        for _ in range(steps):
            done += _step(network, teachers, optimizer, next(batches), recipe, device)
        rates.append(done / (time.perf_counter() - began))
    del batches
    return rates


def _step(
    network: nn.Module,
    teachers: Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    batch: Sequence[torch.Tensor],
    recipe: Recipe,
    device: torch.device,
) -> int:
    """One step; returns how many images it had."""
    seen, clean, labels = (one.to(device) for one in batch)
    network.train()
    if teachers:
        logits, features = network(seen, features=True)
        loss = recipe.loss.weight("ce") * functional.cross_entropy(logits, labels)
        parts = zip(teachers, clean.chunk(len(teachers)), features.chunk(len(teachers)), strict=True)
        for teacher, images, own in parts:
            with torch.no_grad():
                _, theirs = teacher(images, features=True)
            loss = loss + recipe.loss.weight("feature") * cosine_feature_loss(own, theirs)
    else:
        logits = network(seen)
        loss = functional.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item(), (logits.argmax(1) == labels).sum().item()
    return len(seen)


class _Stream(IterableDataset[tuple[torch.Tensor, ...]]):
    """Batches without end, made one image after another; each process makes batches of its own."""

    def __init__(self, images: ImageSet, degradations: Sequence[str], recipe: Recipe, taught: bool) -> None:
        self.pictures = [Image.fromarray(one) for one in images.images.permute(0, 2, 3, 1).contiguous().numpy()]
        self.labels = images.labels.tolist()
        self.degradations, self.batch, self.padding = tuple(degradations), recipe.batch_size, recipe.crop_padding
        self.mean = torch.tensor(images.mean).view(3, 1, 1)
        self.std = torch.tensor(images.std).view(3, 1, 1)
        self.taught = taught

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        info = get_worker_info()
        draw = random.Random(info.id if info else 0)
        torch.set_num_threads(1)
        for _ in count():
            found = [self._sample(draw, name) for name in self.degradations for _ in range(self.batch)]
            seen, clean, labels = zip(*found, strict=True)
            yield torch.stack(seen), torch.stack(clean) if self.taught else torch.zeros(0), torch.tensor(labels)

    def _sample(self, draw: random.Random, name: str) -> tuple[torch.Tensor, torch.Tensor | None, int]:
        row = draw.randrange(len(self.pictures))
        picture = self.pictures[row]
        if draw.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        clean = np.array(picture)
        seen = apply_package(clean, name, draw.choice(find(name).levels))
        corner = [draw.randrange(2 * self.padding + 1) for _ in range(2)]
        return self._tensor(seen, corner), self._tensor(clean, corner) if self.taught else None, self.labels[row]

    def _tensor(self, image: np.ndarray, corner: Sequence[int]) -> torch.Tensor:
        height, width = image.shape[:2]
        padded = functional.pad(torch.from_numpy(image).permute(2, 0, 1), [self.padding] * 4)
        cut = padded[:, corner[0] : corner[0] + height, corner[1] : corner[1] + width]
        return (cut.float() - self.mean) / self.std
