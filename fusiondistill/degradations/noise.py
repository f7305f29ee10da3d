"""Additive white Gaussian noise, as ``imagedegrade.np.noise`` makes it."""

from __future__ import annotations

import torch

from fusiondistill.degradations import fields
from fusiondistill.degradations.registry import register

__all__ = ["noise"]


@register("noise", range(0, 51), unseen=False)
def noise(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor) -> torch.Tensor:
    """Additive Gaussian noise, a value of its own per channel; sigma = level on the 0..255 scale.

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
    """The same in tensor operations, for any device; in halves, to stay within 16 times the batch's memory."""
    out = torch.empty_like(images)
    half = max(1, len(images) // 2)
    for part in (slice(0, half), slice(half, None)):
        z = fields.normal(fields.random_bits(keys[part], images[0].numel()))
        z *= levels[part, None].to(torch.int32)
        z >>= fields.SCALE_BITS
        z += images[part].flatten(1)
        out[part] = z.clamp_(0, 255).view_as(out[part])
    return out
