"""Blur on the CPU, one channel after the other, with loops long enough to vectorise over."""

from __future__ import annotations

import numpy as np
import torch

from fusiondistill.degradations.kernels import compiled, inlined, over_batch

__all__ = ["run"]


@inlined
def _accumulate(total, padded, count, centre, step, weights, radius):  # type: ignore[no-untyped-def]
    """total[k] = the weighted sum around padded[centre + k], at distances that are multiples of step.

    In scipy's order: the centre first, then the pairs from the outermost to the innermost.
    """
    middle, weight = padded[centre : centre + count], weights[0]
    for k in range(count):
        total[k] = middle[k] * weight
    for j in range(radius, 0, -1):
        weight = weights[j]
        before, after = padded[centre - j * step :], padded[centre + j * step :]
        for k in range(count):
            total[k] += (before[k] + after[k]) * weight


@inlined
def _channel(image, out, weights, radius, padded, total):  # type: ignore[no-untyped-def]
    """Blur uint8 [H,W] into out; padded and total are float64 buffers."""
    height, width = image.shape
    for y in range(height + 2 * radius):  # Rows above and below repeat the first and the last.
        row = min(max(y - radius, 0), height - 1)
        for x in range(width):
            padded[y * width + x] = image[row, x]
    _accumulate(total, padded, height * width, radius * width, width, weights, radius)
    wide = width + 2 * radius
    for y in range(height):
        for x in range(width):
            padded[y * wide + radius + x] = np.int32(total[y * width + x])
        for x in range(radius):
            padded[y * wide + x] = padded[y * wide + radius]
            padded[y * wide + radius + width + x] = padded[y * wide + radius + width - 1]
    # All rows in one loop: the sums at the seams mix two rows and are not looked at.
    _accumulate(total, padded, height * wide - 2 * radius, radius, 1, weights, radius)
    for y in range(height):
        for x in range(width):
            out[y, x] = np.uint8(np.int32(total[y * wide + x]))


@compiled("void(int64, int64, uint8[:,:,:,::1], uint8[:,:,:,::1], int64[::1], float64[:,::1])")
def _blur(start, stop, images, out, levels, weights):  # type: ignore[no-untyped-def]
    _, channels, height, width = images.shape
    widest = weights.shape[1] - 1
    padded = np.empty((height + 2 * widest) * (width + 2 * widest))
    total = np.empty(height * (width + 2 * widest))
    for b in range(start, stop):
        level = levels[b]
        radius = (3 * level + 5) // 10  # int(3 * sigma + 0.5)
        if radius == 0:
            out[b] = images[b]
            continue
        for c in range(channels):
            _channel(images[b, c], out[b, c], weights[level], radius, padded, total)


def run(images: torch.Tensor, out: torch.Tensor, levels: torch.Tensor, weights: torch.Tensor) -> None:
    """Write blurred ``images`` to ``out``; ``weights`` are those of ``blur.weights``."""
    over_batch(_blur, len(images), images.numpy(), out.numpy(), levels.numpy(), weights.numpy())
