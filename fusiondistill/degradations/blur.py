"""Gaussian blur, bit for bit that of ``scipy.ndimage.gaussian_filter`` on a uint8 array."""

from __future__ import annotations

import functools

import numpy as np
import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery import fields
from fusiondistill.degradations.machinery.gpu_kernels import gpu_kernel
from fusiondistill.degradations.machinery.tensors import in_pieces

__all__ = ["blur"]

LEVELS = range(0, 51)
RADIUS = 15  # of the widest: int(3 * 5.0 + 0.5)


@functools.cache
def weights(device: torch.device) -> torch.Tensor:
    """float64 [51,16]: weight at distance 0..15 from the centre for sigma = level / 10, zero beyond its radius.

    Computed as scipy does, with numpy: another exp, or another order of the sum, rounds differently.
    """
    table = np.zeros((len(LEVELS), RADIUS + 1))
    table[0, 0] = 1.0
    for level in LEVELS[1:]:
        sigma = level / 10
        radius = int(3.0 * sigma + 0.5)
        phi = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
        table[level, : radius + 1] = (phi / phi.sum())[radius:]
    return torch.from_numpy(table).to(device, non_blocking=True)


@DEGRADATIONS.register("blur", LEVELS, means="sigma = level / 10 pixels", unseen=False)
def blur(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Gaussian blur, sigma = level / 10 pixels, cut at 3 sigma, edges repeated.

    The two passes, down the columns and along the rows, are each truncated to uint8, as scipy writes them back.
    """
    if images.device.type == "cuda" and (fast := gpu_kernel("blur_triton", images.device, tensor_blur, weights)):
        return fast(images, levels, weights(images.device))
    kernel = fields.cpu_kernels("blur_kernel") if images.device.type == "cpu" else None
    if kernel is None:
        return tensor_blur(images, levels)
    out = torch.empty_like(images)
    kernel(images, out, levels, weights(images.device))
    return out


def tensor_blur(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The same in tensor operations, for any device.

    Product and sum are separate operations, so that no GPU contracts them to a fused multiply-add: on a flat image
    everything depends on rounding just below a whole number. Weights beyond an image's own radius are zero, and adding
    zero is exact, so one loop serves all levels of the batch.
    """
    return in_pieces(_both_passes, 2, images, weights(images.device)[levels])


def _both_passes(images: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    columns = columns.view(-1, RADIUS + 1, 1, 1, 1)
    return _pass(_pass(images, columns, 2), columns, 3)


def _pass(images: torch.Tensor, columns: torch.Tensor, axis: int) -> torch.Tensor:
    """One truncated pass along an axis of uint8 [B,3,H,W], with float64 [B,16,1,1,1] weights."""
    size = images.shape[axis]
    where = torch.arange(-RADIUS, size + RADIUS, device=images.device).clamp_(0, size - 1)
    padded = images.index_select(axis, where).to(torch.int16)
    total = padded.narrow(axis, RADIUS, size) * columns[:, 0]
    for distance in range(RADIUS, 0, -1):
        pair = padded.narrow(axis, RADIUS - distance, size) + padded.narrow(axis, RADIUS + distance, size)
        total += pair * columns[:, distance]
    return total.to(torch.uint8)
