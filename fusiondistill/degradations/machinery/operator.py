"""The one public operator: check the arguments, address the randomness, call the degradation."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fusiondistill import randomness
from fusiondistill.degradations import Degradation, find
from fusiondistill.randomness import Address

__all__ = ["PROTOCOLS", "applied", "degrade", "noise_address"]

PROTOCOLS = ("standard", "paper")


def degrade(
    images: torch.Tensor,
    name: str,
    levels: int | Sequence[int] | torch.Tensor,
    *,
    seed: int,
    indices: Sequence[int] | torch.Tensor | None = None,
    protocol: str = "standard",
    **parameters: Any,
) -> torch.Tensor:
    """Degrade a batch of images, each at its own level.

    Args:
        images: uint8 [B,3,H,W], RGB, 0..255, on any device; never written to.
        name: a key of ``DEGRADATIONS``.
        levels: one int for all, or int [B]. See ``DEGRADATIONS[name].levels``.
        seed: with ``name`` and an image's index, all that its noise depends on; the level scales or thresholds it.
        indices: int [B], the address of each image's noise; default 0..B-1. A batch cut in two gives the same pixels
            if the indices are cut with it.
        protocol: ``"standard"``, or ``"paper"`` for the released code's operators (its salt has the value 1).
        parameters: of the degradation: ``DEGRADATIONS[name].parameters``.

    Returns:
        New uint8 [B,3,H,W] on the same device. CPU and GPU agree to the pixel.

    Raises:
        ValueError: unknown name, protocol or parameter; images, levels or indices of another shape or type; a level
            out of range. A tensor of levels on a GPU is not read back to be checked: it is clamped to the range there.

    Example:
        >>> images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        >>> degrade(images, "noise", [0, 50], seed=0).shape
        torch.Size([2, 3, 32, 32])
    """
    degradation = find(name)
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    _check_images(images)
    device_levels = _levels(levels, degradation, images)
    extra = degradation.checked(parameters)
    if images.numel() == 0:
        return images.clone()
    address = noise_address(seed, name)
    return applied(degradation, images, device_levels, address, _indices(indices, images), protocol, extra)


def noise_address(seed: int, name: str) -> int:
    """The address of a degradation's noise, the image's index left out."""
    return randomness.key(operator.index(seed), "degrade", name)


def applied(
    degradation: Degradation,
    images: torch.Tensor,
    levels: torch.Tensor,
    address: Address,
    indices: torch.Tensor,
    protocol: str,
    parameters: Mapping[str, Any],
) -> torch.Tensor:
    """Degrade images whose levels are within the range; nothing is read back from the device.

    Args:
        images: uint8 [B,3,H,W], at least one.
        levels: int64 [B] on the same device.
        address: of the noise, see :func:`noise_address`.
        indices: int64 [B] on the same device, the rest of each image's address.
        protocol: see :func:`degrade`.
        parameters: all of the degradation's, checked.

    Returns:
        New uint8 [B,3,H,W].

    Raises:
        ValueError: the degradation's function returns something else.
    """
    extra = dict(parameters)
    if "keys" in degradation.wants:
        extra["keys"] = randomness.bits(address, indices)
    if "protocol" in degradation.wants:
        extra["protocol"] = protocol
    out = degradation.function(images.contiguous(), levels, **extra)
    if not isinstance(out, torch.Tensor):
        raise degradation.gave(f"must return a tensor, not {type(out).__name__}")
    if out.shape != images.shape or out.dtype != torch.uint8 or out.device != images.device:
        raise degradation.gave(
            f"returned {out.dtype} {list(out.shape)} on {out.device}, "
            f"expected {images.dtype} {list(images.shape)} on {images.device}"
        )
    return out.clone() if out is images else out


def _check_images(images: torch.Tensor) -> None:
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        kind = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"images: expected a uint8 tensor, 0..255, got {kind}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected shape [B, 3, H, W], got {list(images.shape)}")


def _integers(values: Any, what: str, images: torch.Tensor) -> torch.Tensor:
    """Integers, one for every image or for all, as int64 [B] wherever they are."""
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{what}: expected integers, got {values!r}") from None
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
        raise ValueError(f"{what}: expected integers, got {tensor.dtype}")
    if tensor.ndim == 0:
        tensor = tensor.expand(len(images))
    if tensor.shape != images.shape[:1]:
        raise ValueError(f"{what}: expected one per image, shape [{len(images)}], got {list(tensor.shape)}")
    return tensor.to(torch.int64)


def _levels(levels: Any, degradation: Degradation, images: torch.Tensor) -> torch.Tensor:
    """Checked levels, int64 [B] on the images' device."""
    low, high = degradation.levels[0], degradation.levels[-1]
    if isinstance(levels, int) and not isinstance(levels, bool):
        if not low <= levels <= high:
            raise ValueError(f"level {levels} of {degradation.name!r} is out of range {low}..{high}")
        return torch.full((len(images),), levels, dtype=torch.int64, device=images.device)
    tensor = _integers(levels, "levels", images)
    if tensor.device.type != "cpu":
        return tensor.to(images.device).clamp(low, high)
    outside = tensor[(tensor < low) | (tensor > high)]
    if len(outside):
        raise ValueError(f"level {int(outside[0])} of {degradation.name!r} is out of range {low}..{high}")
    return tensor.to(images.device, non_blocking=True).contiguous()


def _indices(indices: Any, images: torch.Tensor) -> torch.Tensor:
    if indices is None:
        return torch.arange(len(images), device=images.device)
    return _integers(indices, "indices", images).to(images.device, non_blocking=True).contiguous()
