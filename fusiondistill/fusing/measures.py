"""What is measured of a fusion: distances, barriers, what each ingredient brings, what is kept of the experts."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fusiondistill.fusing.ingredients import Ingredient
from fusiondistill.fusing.material import Material
from fusiondistill.merging._judging import Judged, judged
from fusiondistill.state_dicts import StateDict, average, changes, distance, parameter_keys

__all__ = ["ALPHAS", "Judged", "Kept", "Pair", "accuracies", "by_statistics", "judged", "left_out", "pairs", "to_base"]

ALPHAS = (0.25, 0.5, 0.75)
"""Shares of the second network on the way between two, at which the loss is computed."""


@dataclass(frozen=True)
class Pair:
    """Two ingredients.

    Attributes:
        names: of the two.
        distance: |a - b| over all weights, divided by the mean of |a| and |b|.
        cosine: of their changes from the base, -1 to 1; None without a base, or where one has not moved.
        barrier: in nats, see :func:`pairs`; None without images.
    """

    names: tuple[str, str]
    distance: float
    cosine: float | None = None
    barrier: float | None = None


@dataclass(frozen=True)
class Kept:
    """How an ingredient and the merged network do on the ingredient's own task; accuracies are fractions."""

    name: str
    task: str
    own: float
    merged: float

    @property
    def share(self) -> float | None:
        """The part of the ingredient's accuracy that the merged network has; may exceed 1. None where it has none."""
        return self.merged / self.own if self.own else None


def accuracies(given: Sequence[Ingredient], material: Material) -> dict[str, Judged]:
    """Name -> each network as it is."""
    return {one.name: judged(material.network(one.state), material.judged) for one in given}


def to_base(given: Sequence[Ingredient], base: StateDict) -> dict[str, float]:
    """Name -> :func:`fusiondistill.state_dicts.distance` from the base."""
    return {one.name: distance(one.state, base) for one in given}


def pairs(given: Sequence[Ingredient], base: StateDict | None, material: Material | None) -> list[Pair]:
    """All pairs of ingredients.

    The barrier is how far the loss on the straight way between two networks rises above the line between their own
    losses (Frankle et al. 2020), the largest over :data:`ALPHAS`; below 0 the way lies lower than the line. With
    ``recalibrate: mixed`` BatchNorm is recomputed at every point, the two ends included.
    """
    lengths, products = _products([one.state for one in given], base or given[0].state)
    ends = [] if material is None else [_loss(one.state, material) for one in given]
    found = []
    for (i, one), (j, other) in itertools.combinations(enumerate(given), 2):
        apart = math.sqrt(max(0.0, float(products[i, i] + products[j, j] - 2 * products[i, j])))
        mean = float(lengths[i] + lengths[j]) / 2
        moved = math.sqrt(float(products[i, i] * products[j, j]))
        barrier = None
        if material is not None:
            way = [_loss(average([one.state, other.state], [1 - alpha, alpha]), material) for alpha in ALPHAS]
            lines = [(1 - alpha) * ends[i] + alpha * ends[j] for alpha in ALPHAS]
            barrier = max(point - line for point, line in zip(way, lines, strict=True))
        cosine = float(products[i, j]) / moved if base is not None and moved else None
        found.append(Pair((one.name, other.name), apart / mean if mean else 0.0, cosine, barrier))
    return found


def _products(states: Sequence[StateDict], start: StateDict) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths [N] of networks, and products [N,N] of their changes from a start, float64, tensor by tensor."""
    lengths = torch.zeros(len(states), dtype=torch.float64)
    products = torch.zeros(len(states), len(states), dtype=torch.float64)
    for key in parameter_keys(start):
        first, moved = changes(key, states, start)
        moved = moved.reshape(len(states), -1)
        lengths += (moved + first.flatten()).square().sum(1)
        products += moved @ moved.T
    return lengths.sqrt(), products


def by_statistics(state: StateDict, material: Material) -> dict[str, tuple[nn.Module, Judged]]:
    """The network of merged weights with BatchNorm's statistics recomputed, ``mixed``, and averaged; both judged."""
    ways = {"mixed": material.recomputed(state), "average": material.network(state)}
    return {way: (network, judged(network, material.judged)) for way, network in ways.items()}


def _loss(state: StateDict, material: Material) -> float:
    return judged(material.finished(state, material.few), material.few_judged).loss


def left_out(
    given: Sequence[Ingredient], make: Callable[[Sequence[Ingredient]], StateDict], whole: Judged, material: Material
) -> dict[str, float]:
    """Name -> the mean accuracy with all ingredients minus that without this one, a fraction.

    Where the method cannot do without one (the weights of the others have no sum above 0), it has no gain.

    Args:
        make: merges some of the ingredients.
        whole: the network of all.
    """
    gains = {}
    for one in given:
        with contextlib.suppress(ValueError):
            rest = make([other for other in given if other is not one])
            gains[one.name] = whole.mean - judged(material.recomputed(rest), material.judged).mean
    return gains
