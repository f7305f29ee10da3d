"""Additive white Gaussian noise, as ``imagedegrade.np.noise`` makes it."""

from __future__ import annotations

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery import fields
from fusiondistill.degradations.machinery.tensors import in_pieces

__all__ = ["noise"]


@DEGRADATIONS.register("noise", range(0, 51), means="sigma = level, of 255", unseen=False)
def noise(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor) -> torch.Tensor:
    """Additive Gaussian noise, one value per channel; sigma = level on the 0..255 scale.

    The sum is clipped to 0..255, then truncated. An image is whole numbers, so truncation means adding
    floor(level * z): no floating point is left.
    """
    kernel = fields.cpu_kernels("noise_kernel") if images.device.type == "cpu" else None
    if kernel is None:
        return tensor_noise(images, levels, keys)
    out = torch.empty_like(images)
    values, slopes = fields.normal_tables(images.device)
    kernel(images, out, levels, keys, values, slopes)
    return out


def tensor_noise(images: torch.Tensor, levels: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The same in tensor operations, for any device."""
    return in_pieces(_add, 2, images, levels, keys)


def _add(images: torch.Tensor, levels: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    z = fields.normal(fields.random_bits(keys, images[0].numel()))
    z *= levels[:, None].to(torch.int32)
    z >>= fields.SCALE_BITS
    z += images.flatten(1)
    return z.clamp_(0, 255).to(torch.uint8).view_as(images)
