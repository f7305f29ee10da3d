"""Whether a step, or a batch that is judged, fits the memory of its device, found out before work starts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fusiondistill.memory import free_memory
from fusiondistill.precision import autocast

__all__ = ["BatchTooLarge", "check_judging", "check_room", "kept_by_a_step"]

_FEW = 2
"""Images of the pass that is measured; BatchNorm needs two."""
_SURELY = 2000
"""A step that has so many times its images' size in memory fits: 500 are usual, of a ResNet-56."""
_PART = 0.7
"""Of the largest batch whose saved tensors fit. A step needs gradients and working space beside them."""


class BatchTooLarge(ValueError):
    """A step does not fit the memory of its device."""


def check_room(
    network: nn.Module,
    image: torch.Size,
    batch_size: int,
    parts: int,
    device: torch.device,
    precision: str,
    workers: int = 1,
    teachers: Sequence[nn.Module] = (),
    share: float = 1.0,
) -> None:
    """Refuse a batch whose forward pass alone saves more for the backward pass than the device has free.

    What a pass saves is measured on two images and grows with their number. What is refused can surely not be trained;
    what is not refused may still be too large by the working space of a step.

    Args:
        network: the student, on any device; it is copied.
        image: [3,H,W].
        batch_size: images of each degradation in a step of this worker.
        parts: how many degradations there are, 1 for clean images.
        device: where it is to be trained.
        precision: of the training.
        workers: how many share each batch. What is said is of the whole batch, as a recipe has it.

        teachers: whose weights come to the device, too.
        share: of a GPU that is this process' own, where several share it.

    Raises:
        BatchTooLarge: names the largest batch size that would fit.
    """
    free = _own(device, share) - sum(weight.nbytes for one in teachers for weight in one.parameters())
    if batch_size * parts * image.numel() * 4 * _SURELY < free:
        return
    each = kept_by_a_step(network, image, device, precision) * parts
    weights = sum(weight.nbytes for weight in network.parameters())  # gradients take as much again
    if each * batch_size + weights <= free:
        return
    fitting = max(0, int((free - weights) * _PART / each))
    fitting -= fitting % 8 if fitting > 8 else 0
    shared = f" of each of {workers} workers" if workers > 1 else ""
    of_each = f" of each of {parts} degradations" if parts > 1 else ""
    advice = (
        f"a batch_size of {fitting * workers:,} would fit"
        if fitting > 1
        else f"no batch would fit: take {'a smaller network' if share == 1 else 'fewer workers on a GPU'}"
    )
    raise BatchTooLarge(
        f"a batch of {batch_size * workers:,} images{of_each} needs at least "
        f"{_gigabytes(each * batch_size + weights)} on {device}{shared}, where {_gigabytes(max(0, free))} are free: "
        f"{advice}"
    )


def check_judging(image: torch.Size, batch_size: int, device: torch.device) -> None:
    """Refuse a batch to be judged whose images alone do not fit: as bytes, degraded, and as what a network takes.

    Args:
        image: [3,H,W].
        batch_size: images of a batch.
        device: where they are judged.

    Raises:
        BatchTooLarge: names the largest batch size that would fit.
    """
    each, free = image.numel() * (1 + 1 + 4), free_memory(device)
    if each * batch_size > free:
        fitting = max(2, int(free * _PART * _PART / each))
        raise BatchTooLarge(
            f"a batch of {batch_size:,} images to be evaluated needs at least {_gigabytes(each * batch_size)} on "
            f"{device}, where {_gigabytes(free)} are free: an evaluation.batch_size of {fitting:,} would fit"
        )


def _own(device: torch.device, share: float) -> int:
    """Bytes that are free on a device, at most its part of a GPU that processes share."""
    free = free_memory(device)
    if share < 1 and device.type == "cuda":
        return min(free, int(share * torch.cuda.mem_get_info(device)[1]))
    return free


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def kept_by_a_step(network: nn.Module, image: Sequence[int], device: torch.device, precision: str) -> float:
    """Bytes that a forward pass saves for the backward pass, for each image; weights are not counted."""
    model = copy.deepcopy(network).to(device).train()
    own = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
    found: dict[int, tuple[int, Any]] = {}

    def keep(saved: torch.Tensor) -> torch.Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes(), saved  # held, so that no other gets its address
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved), autocast(precision, device):
        model(torch.zeros(_FEW, *image, device=device))
    return sum(size for size, _ in found.values()) / _FEW
