"""Images to compare answers on where those of the network's own data set are not at hand."""

from __future__ import annotations

import torch

__all__ = ["digits"]

CLEAN = 40
LEVELS = (("blur", 10), ("noise", 20), ("jpeg", 15))
"""Degradations with a level at which an image still shows something."""


def digits(size: tuple[int, int]) -> torch.Tensor:
    """Real scans of handwritten digits, brought to a size: the clean ones, then the same ones degraded in three ways.

    Args:
        size: (height, width) in pixels.

    Returns:
        uint8 [160,3,height,width]; four of every class and kind.
    """
    from fusiondistill.data import load_images
    from fusiondistill.data.resizing import resized
    from fusiondistill.degradations import degrade

    images = load_images("digits", "test").take(CLEAN)
    pixels, _ = images.gather(range(len(images)))
    arrays = (resized(one.permute(1, 2, 0).contiguous().numpy(), size) for one in pixels)
    clean = torch.stack([torch.from_numpy(one.copy()).permute(2, 0, 1) for one in arrays])
    indices = torch.arange(len(clean))
    return torch.cat([clean, *(degrade(clean, name, level, seed=0, indices=indices) for name, level in LEVELS)])
