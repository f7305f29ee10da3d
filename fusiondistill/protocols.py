"""The defaults of the two protocols, as values: the released code's quirks, and this project's rules.

The quirks of the original's pixels (salt painted as 1) are in the degradations, which are told the protocol's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["PROTOCOLS", "Protocol", "ProtocolName"]

ProtocolName = Literal["standard", "paper"]


@dataclass(frozen=True)
class Protocol:
    """Defaults that depend on the protocol.

    Attributes:
        select: how the kept epoch is chosen: ``validation``, ``last`` or ``test``.
        held_out: part of the training images that is held out, a fraction.
        recalibrate: how a merged network gets BatchNorm's statistics.
        data_seed: seed of order, augmentation, levels and noise; None: the run's own.
        score_batch: a network in training is scored by the mean over batches of so many images of each batch's
            accuracy, so that a short last batch weighs as much as a full one; None: by the mean over images.
        redrawn: whether the levels and the noise that it is scored on are drawn anew at every epoch.
        searches: whether a search is possible: it needs its own validation split.
        recipe: keys of every recipe.
        shapes: shape of a method (see :mod:`fusiondistill.recipes`) -> keys of its recipe.
    """

    select: str
    held_out: float
    recalibrate: str
    data_seed: int | None
    score_batch: int | None
    redrawn: bool
    searches: bool
    recipe: Mapping[str, Any]
    shapes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


PROTOCOLS: dict[str, Protocol] = {
    "standard": Protocol(
        select="validation",
        held_out=0.1,
        recalibrate="mixed",
        data_seed=None,
        score_batch=None,
        redrawn=False,
        searches=True,
        recipe={"pairing": "independent", "coupled_draws": False},
    ),
    "paper": Protocol(
        select="test",
        held_out=0.0,
        recalibrate="none",
        data_seed=123,  # the original seeds its loaders with this in every run, independent of the run's seed
        score_batch=128,
        redrawn=True,
        searches=False,
        recipe={"pairing": "same", "coupled_draws": True, "precision": "fp32"},
        # What starts from merged weights gets a hole of 16 pixels at 64x64, too.
        shapes={shape: {"largest_cutout": 16} for shape in ("all-merged", "all-merged-taught")},
    ),
}
