"""The router: a few fixed numbers of an image, a small network on them, and the choice between classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fusiondistill.degradation_config import starts_of_bands
from fusiondistill.inference._traces import FEATURES, Traces

__all__ = ["CLEAN", "PIECE", "Degradation", "Route", "Routed", "Router", "parameters_of"]

CLEAN = "clean"
"""What a router names where it sees no degradation."""
PIECE = 64
"""Images that the router looks at together, the last ones filled up: so no answer depends on a batch's size."""


class Degradation(NamedTuple):
    """A degradation that a router knows: the id, and the levels, rising."""

    id: str
    levels: tuple[int, ...]


class Route(NamedTuple):
    """What a router sees in B images.

    Attributes:
        named: int64 [B]: 0 is clean, k the k-th degradation.
        chosen: int64 [B]: the degradation whose network answers, counted from 0.
        levels: int64 [B]: a rough level of that degradation.
    """

    named: torch.Tensor
    chosen: torch.Tensor
    levels: torch.Tensor


def parameters_of(degradations: int, width: int) -> int:
    """How many parameters the learned part of a :class:`Router` has."""
    return (FEATURES + 1) * width + (width + 1) * width + (width + 1) * (2 * degradations + 1)


class Router(nn.Module):
    """Names the degradation of each image, and a rough level.

    The numbers x of :class:`Traces`, brought to mean 0 and deviation 1, go through two layers of ``width`` with ReLU.
    Of the 2 D + 1 outputs, the first D + 1 are the logits of clean and of each degradation, the others each
    degradation's level, 0 at its lowest and 1 at its highest.

    Args:
        degradations: D of them.
        width: of the layers.
        clean: the degradation, counted from 0, whose network answers where the image seems clean; None: the likeliest.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    listed: torch.Tensor

    def __init__(self, degradations: Sequence[Degradation], width: int, clean: int | None = None) -> None:
        super().__init__()
        self.degradations, self.clean = tuple(degradations), clean
        self.traces = Traces()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.first, self.second = nn.Linear(FEATURES, width), nn.Linear(width, width)
        self.last = nn.Linear(width, 2 * len(self.degradations) + 1)
        most = max(len(one.levels) for one in self.degradations)
        listed = torch.tensor([[*one.levels, *[one.levels[-1]] * (most - len(one.levels))] for one in degradations])
        self.register_buffer("listed", listed, persistent=False)

    @property
    def names(self) -> tuple[str, ...]:
        """What it can name: clean, then the ids of the degradations."""
        return (CLEAN, *(one.id for one in self.degradations))

    def outputs(self, traces: torch.Tensor) -> torch.Tensor:
        """Logits and levels, float32 [B, 2 D + 1], of the numbers of :class:`Traces`."""
        x = (traces - self.mean) / self.deviation
        found: torch.Tensor = self.last(F.relu(self.second(F.relu(self.first(x)))))
        return found

    def forward(self, images: torch.Tensor) -> Route:
        """What it sees in images, uint8 [B,3,H,W], H and W from 8."""
        if torch.compiler.is_exporting():
            return self._read(self.outputs(self.traces(images)))
        pieces = [self.outputs(self.traces(_filled(one)))[: len(one)] for one in images.split(PIECE)]
        return self._read(torch.cat(pieces))

    def _read(self, outputs: torch.Tensor) -> Route:
        count = len(self.degradations)
        logits, heights = outputs[:, : count + 1], outputs[:, count + 1 :]
        named, chosen = logits.argmax(1), logits[:, 1:].argmax(1)
        if self.clean is not None:
            chosen = torch.where(named > 0, chosen, self.clean)
        height = heights.gather(1, chosen[:, None]).clamp(0, 1)
        levels = self.listed[chosen]  # [B, most]
        low, high = levels[:, :1], levels[:, -1:]
        nearest = (levels - (low + height * (high - low))).abs().argmin(1, keepdim=True)
        return Route(named, chosen, levels.gather(1, nearest).squeeze(1))


def _filled(images: torch.Tensor) -> torch.Tensor:
    """Images filled up to a whole piece with copies of the first one."""
    missing = PIECE - len(images)
    return torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images


class Routed(nn.Module):
    """Classifiers behind a router: each image goes to that of the degradation that it seems to have.

    Args:
        router: names a degradation and a level.
        classifiers: for each of the router's degradations, in their order, one or several: uint8 [B,3,H,W] -> logits
            [B,C]. Several share the levels in equal parts, as :func:`fusiondistill.degradation_config.in_bands` cuts
            them.
    """

    first: torch.Tensor
    bounds: torch.Tensor

    def __init__(self, router: Router, classifiers: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self.router = router
        self.classifiers = nn.ModuleList(one for several in classifiers for one in several)
        counts = [len(several) for several in classifiers]
        self.register_buffer("first", torch.tensor([0, *counts[:-1]]).cumsum(0), persistent=False)
        starts = [
            [one.levels[start] for start in starts_of_bands(len(one.levels), count)][1:]
            for one, count in zip(router.degradations, counts, strict=True)
        ]
        never = torch.iinfo(torch.int64).max
        filled = [[*one, *[never] * (max(counts) - 1 - len(one))] for one in starts]
        self.register_buffer("bounds", torch.tensor(filled, dtype=torch.int64), persistent=False)

    def _places(self, route: Route) -> torch.Tensor:
        """The classifier of each image, int64 [B]."""
        return self.first[route.chosen] + (route.levels[:, None] >= self.bounds[route.chosen]).sum(1)

    @property
    def names(self) -> tuple[str, ...]:
        """What the router can name."""
        return self.router.names

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B,C] of images uint8 [B,3,H,W]."""
        return self.routed(images)[0]

    def routed(self, images: torch.Tensor) -> tuple[torch.Tensor, Route]:
        """The logits, and what the router sees in each image."""
        route: Route = self.router(images)
        if torch.compiler.is_exporting():  # a graph does the same for all pixels: every network, and then the choice
            every = torch.stack([one(images).float() for one in self.classifiers], 1)  # [B, networks, C]
            index = self._places(route)[:, None, None].expand(-1, 1, every.shape[2])
            return every.gather(1, index).squeeze(1), route
        logits: torch.Tensor | None = None
        places = self._places(route)
        for place, classifier in enumerate(self.classifiers):
            rows = (places == place).nonzero().squeeze(1)
            if len(rows):
                # One image is doubled: torch would use other kernels for it.
                own = classifier(images[rows if len(rows) > 1 else rows.repeat(2)]).float()[: len(rows)]
                logits = own.new_zeros(len(images), own.shape[1]) if logits is None else logits
                logits[rows] = own
        assert logits is not None
        return logits, route
