"""Blur, noise and JPEG together: what an image goes through on its way from a camera to a page."""

from __future__ import annotations

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery.composition import in_turn

__all__ = ["blur_noise_jpeg"]

PARTS = {"blur": range(0, 21, 2), "noise": range(0, 31, 3), "jpeg": (101, *range(90, 0, -9))}
_apply = in_turn(PARTS)


MEANS = "blur of sigma level / 5 pixels, then noise of sigma 3 level of 255, then JPEG with 9 less quality a level"


@DEGRADATIONS.register("blur_noise_jpeg", range(0, 11), means=MEANS, parts=tuple(PARTS))
def blur_noise_jpeg(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor, protocol: str) -> torch.Tensor:
    """In turn: blur of sigma 0.2, Gaussian noise of sigma 3 and JPEG with 9 less quality for each level."""
    out: torch.Tensor = _apply(images, levels, keys=keys, protocol=protocol)
    return out
