"""Blur on the CPU, one channel after the other, with loops long enough to vectorise over."""

from __future__ import annotations

import numpy as np
import torch

from fusiondistill.degradations.machinery.kernels import compiled, inlined, over_batch

__all__ = ["run"]


@inlined
def _accumulate(total, padded, count, centre, step, weights, radius):  # type: ignore[no-untyped-def]
    """total[k] = the weighted sum around padded[centre + k], at distances that are multiples of step.

    In scipy's order: the centre first, then the pairs from the outermost to the innermost; two pairs in one loop, to
    spare the memory. Pixels are kept, and added in pairs, as float32, which is exact; all else is float64.
    """
    middle, weight = padded[centre:], weights[0]
    for k in range(count):
        total[k] = np.float64(middle[k]) * weight
    for j in range(radius, 1, -2):
        weight, before, after = weights[j], padded[centre - j * step :], padded[centre + j * step :]
        inner, left, right = weights[j - 1], padded[centre - (j - 1) * step :], padded[centre + (j - 1) * step :]
        for k in range(count):
            total[k] = (total[k] + np.float64(before[k] + after[k]) * weight) + np.float64(left[k] + right[k]) * inner
    if radius % 2:
        before, after, weight = padded[centre - step :], padded[centre + step :], weights[1]
        for k in range(count):
            total[k] += np.float64(before[k] + after[k]) * weight


@inlined
def _channel(image, out, height, width, weights, radius, padded, total):  # type: ignore[no-untyped-def]
    """Blur uint8 [H*W] into out; padded float32 and total float64 are buffers."""
    for y in range(height + 2 * radius):  # Rows above and below repeat the first and the last.
        pixels = image[min(max(y - radius, 0), height - 1) * width :]
        row = padded[y * width :]
        for x in range(width):
            row[x] = pixels[x]
    _accumulate(total, padded, height * width, radius * width, width, weights, radius)
    wide = width + 2 * radius
    for y in range(height):
        sums, row = total[y * width :], padded[y * wide :]
        inner = row[radius:]
        for x in range(width):
            inner[x] = np.int32(sums[x])
        for x in range(radius):
            row[x], inner[width + x] = inner[0], inner[width - 1]
    # All rows in one loop: the sums at the seams mix two rows and are not looked at.
    _accumulate(total, padded, height * wide - 2 * radius, radius, 1, weights, radius)
    for y in range(height):
        sums, row = total[y * wide :], out[y * width :]
        for x in range(width):
            row[x] = np.uint8(np.int32(sums[x]))


@compiled("void(int64, int64, int64, int64, uint8[:,:,::1], uint8[:,:,::1], int64[::1], float64[:,::1])")
def _blur(start, stop, height, width, images, out, levels, weights):  # type: ignore[no-untyped-def]
    widest = weights.shape[1] - 1
    padded = np.empty((height + 2 * widest) * (width + 2 * widest), np.float32)
    total = np.empty(height * (width + 2 * widest))
    for b in range(start, stop):
        level = levels[b]
        radius = (3 * level + 5) // 10  # int(3 * sigma + 0.5)
        for c in range(images.shape[1]):
            _channel(images[b, c], out[b, c], height, width, weights[level], radius, padded, total)


def run(images: torch.Tensor, out: torch.Tensor, levels: torch.Tensor, weights: torch.Tensor) -> None:
    """Write blurred ``images`` to ``out``; ``weights`` are those of ``blur.weights``."""
    arrays = images.flatten(2).numpy(), out.flatten(2).numpy(), levels.numpy(), weights.numpy()
    over_batch(_blur, len(images), *images.shape[2:], *arrays)
