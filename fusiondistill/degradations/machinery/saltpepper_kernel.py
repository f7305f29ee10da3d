"""Salt and pepper on the CPU, one image after the other."""

from __future__ import annotations

import numpy as np
import torch

from fusiondistill.degradations.machinery.field_kernels import random_bits
from fusiondistill.degradations.machinery.kernels import compiled, over_batch

__all__ = ["run"]


@compiled("void(int64, int64, uint8[:,::1], uint8[:,::1], int32[:,::1], int64[::1], int64)")
def _saltpepper(start, stop, images, out, limits, keys, salt):  # type: ignore[no-untyped-def]
    for b in range(start, stop):
        key, low, high, white = keys[b], limits[b, 0], limits[b, 1], np.uint8(salt)
        for i in range(images.shape[1]):
            bits = random_bits(key, i)
            kept = np.uint8(0) if bits > high else images[b, i]
            out[b, i] = white if bits < low else kept


def run(images: torch.Tensor, out: torch.Tensor, limits: torch.Tensor, keys: torch.Tensor, salt: int) -> None:
    """Write ``images`` with salt and pepper to ``out``; ``limits`` int32 [B,2] are rows of ``thresholds``."""
    arrays = images.flatten(1).numpy(), out.flatten(1).numpy(), limits.numpy(), keys.numpy()
    over_batch(_saltpepper, len(images), *arrays, salt)
