"""Mixup: each image is blended with another one of the same epoch, and so are their labels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from fusiondistill.randomness import Address, uniform

__all__ = ["blended", "shares"]

_POINTS = 4096
"""Stretches of the quantile function, between whose ends it is taken to be straight."""


def shares(alpha: float, address: Address, indices: torch.Tensor) -> torch.Tensor:
    """The share of each image in its mixture, drawn from Beta(alpha, alpha); its partner has the rest.

    Zhang et al., mixup: beyond empirical risk minimization, ICLR 2018, arXiv:1710.09412. A draw is a function of the
    address and the image alone, as those of the other augmentations are.

    Args:
        alpha: above 0; 1 is uniform, less is nearer to no mixture.
        address: of the draws.
        indices: int64 [B], the images' indices.

    Returns:
        float32 [B], 0 to 1.
    """
    table = _quantiles(alpha, indices.device)
    place = uniform(address, indices) * _POINTS
    below = place.long()
    return torch.lerp(table[below], table[below + 1], place - below).float()


@lru_cache(maxsize=16)
def _quantiles(alpha: float, device: torch.device) -> torch.Tensor:
    """The quantile function of Beta(alpha, alpha), float64 [_POINTS + 1]."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, np.linspace(0, 1, _POINTS + 1))).to(device)


def blended(images: torch.Tensor, partners: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """`share * image + (1 - share) * partner`, float32 [B,3,H,W]; share float32 [B]."""
    part = share.view(-1, 1, 1, 1)
    return part * images + (1 - part) * partners
