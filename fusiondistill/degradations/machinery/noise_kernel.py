"""Noise on the CPU, one image after the other."""

from __future__ import annotations

import numpy as np
import torch

from fusiondistill.degradations.machinery.field_kernels import normal, normal_piece, normal_position, random_bits
from fusiondistill.degradations.machinery.fields import SCALE_BITS
from fusiondistill.degradations.machinery.kernels import compiled, inlined, over_batch

__all__ = ["run"]


CHUNK = 512  # Values at a time: the buffers stay in the first-level cache.


@inlined
def _chunk(image, out, first, key, level, values, slopes, buffers):  # type: ignore[no-untyped-def]
    """Three loops, since LLVM vectorises the first and the last, and a look-up in a table it does not."""
    bits, position, value, slope = buffers
    for k in range(len(image)):
        bits[k] = random_bits(key, first + k)
        position[k] = normal_position(bits[k])
    for k in range(len(image)):
        piece = normal_piece(position[k])
        value[k], slope[k] = values[piece], slopes[piece]
    for k in range(len(image)):
        z = normal(bits[k], position[k], value[k], slope[k])
        noisy = np.int32(image[k]) + np.int32(np.int32(z * level) >> SCALE_BITS)
        out[k] = np.uint8(min(max(np.int32(noisy), np.int32(0)), np.int32(255)))


@compiled("void(int64, int64, uint8[:,::1], uint8[:,::1], int64[::1], int64[::1], int32[::1], int32[::1])")
def _noise(start, stop, images, out, levels, keys, values, slopes):  # type: ignore[no-untyped-def]
    buffers = (
        np.empty(CHUNK, np.int32),
        np.empty(CHUNK, np.int32),
        np.empty(CHUNK, np.int32),
        np.empty(CHUNK, np.int32),
    )
    for b in range(start, stop):
        level = np.int32(levels[b])
        for first in range(0, images.shape[1], CHUNK):
            part = slice(first, first + CHUNK)
            _chunk(images[b, part], out[b, part], first, keys[b], level, values, slopes, buffers)


def run(images: torch.Tensor, out: torch.Tensor, *rest: torch.Tensor) -> None:
    """Write noisy ``images`` to ``out``; the rest is levels, keys and the two tables of ``fields.normal_tables``."""
    arrays = [images.flatten(1).numpy(), out.flatten(1).numpy(), *(tensor.numpy() for tensor in rest)]
    over_batch(_noise, len(images), *arrays)
