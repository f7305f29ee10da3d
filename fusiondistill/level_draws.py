"""The levels at which images are degraded, drawn by address, and images under a degradation as a config gives it."""

from __future__ import annotations

from functools import lru_cache

import torch

from fusiondistill.degradation_config import DegradationConfig, as_degradation
from fusiondistill.degradations import degrade
from fusiondistill.randomness import Address, integers, key

__all__ = ["degraded", "level_address", "noise_seed", "random_levels"]


def level_address(given: str | DegradationConfig, coupled: bool) -> str:
    """What of a degradation addresses the draw of an image's level: its id, or how many levels it has.

    The released code seeds a generator of levels for each degradation, all alike, and draws from 0 to the number of
    levels; so degradations with equally many (blur and noise, 51) draw the same one, counted from their lowest. It
    takes holes from another generator, seeded alike too, which degradations share with their noise; so those that need
    no random numbers (jpeg and blur) have the same holes. Both hold here for a plugin's degradations as well.
    """
    one = as_degradation(given)
    return f"{len(one.every_level)} levels" if coupled else one.id


def random_levels(given: str | DegradationConfig, address: Address, indices: torch.Tensor) -> torch.Tensor:
    """A level for every image, int64 [B], uniform over the degradation's levels, or over those that are given."""
    levels = as_degradation(given).every_level
    drawn = integers(address, indices, 0, len(levels) - 1)
    if len(levels) == levels[-1] - levels[0] + 1:
        return drawn + levels[0]
    return _listed(tuple(levels), indices.device)[drawn]


@lru_cache(maxsize=64)
def _listed(levels: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Levels on the device, cached: a copy in every step would make the host wait for the device."""
    return torch.tensor(levels).to(device, non_blocking=True)


def degraded(
    images: torch.Tensor,
    given: str | DegradationConfig,
    levels: torch.Tensor,
    *,
    seed: int,
    indices: torch.Tensor,
    protocol: str,
) -> torch.Tensor:
    """Training images under a degradation as it is given; one with its own id draws its own noise.

    Args:
        images: uint8 [B,3,H,W].
        levels: int64 [B].
        seed, indices, protocol: see :func:`fusiondistill.degradations.degrade`.

    Returns:
        uint8 [B,3,H,W].
    """
    one = as_degradation(given)
    own = noise_seed(one, seed)
    return degrade(images, one.name, levels, seed=own, indices=indices, protocol=protocol, **one.parameters)


def noise_seed(given: DegradationConfig, seed: int) -> int:
    """The seed of a degradation's noise: one with its own id has its own seed."""
    return seed if given.id == given.name else key(seed, "as", given.id)
