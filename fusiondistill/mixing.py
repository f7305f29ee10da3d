"""Mixup: each image is blended with another one of the same epoch, and their labels, too."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from fusiondistill.losses import Mixed
from fusiondistill.randomness import Address, uniform

if TYPE_CHECKING:
    from fusiondistill.batches import Batch

__all__ = ["blended", "for_each", "mixed", "right", "shares"]

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


def blended(values: torch.Tensor, partners: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """`share * value + (1 - share) * partner`, float [B, ...]; share float [B]."""
    part = for_each(share, values)
    return part * values + (1 - part) * partners


def for_each(numbers: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A number for each image, [B], in the form that goes with values [B, ...]."""
    return numbers.view(-1, *[1] * (values.dim() - 1))


def mixed(
    own: Batch,
    partners: Batch,
    share: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Batch:
    """A batch whose images are mixed with those of another one.

    Args:
        own, partners: equally large.
        share: float32 [B], of each image of ``own``.
        weights: float [B] each, what the images and their partners weigh by their classes.
    """
    teacher = None
    if own.teacher is not None and partners.teacher is not None:
        teacher = blended(own.teacher, partners.teacher, share)
    first, second = weights or (None, None)
    return replace(
        own,
        student=blended(own.student, partners.student, share),
        teacher=teacher,
        image_weights=first,
        mixed=Mixed(partners.labels, share, second),
    )


def right(found: torch.Tensor, labels: torch.Tensor, partners: Mixed | None) -> torch.Tensor:
    """The mean over images of what is right, 0-d float64: 1 for the label, in a mixture the share of what was found.

    Args:
        found, labels: int64 [B].
        partners: None without mixup.
    """
    own = (found == labels).double()
    return (own if partners is None else blended(own, (found == partners.labels).double(), partners.share)).mean()
