"""A part of a way of inference that is fitted: what it is fitted on, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from fusiondistill.data import ImageSet
    from fusiondistill.degradation_config import DegradationConfig

__all__ = ["At", "Part"]


@dataclass(frozen=True)
class At:
    """What a part is fitted on.

    Attributes:
        images: of the training split.
        held_out: of the validation split, to judge the part on; None: there is none.
        degradations: that the networks are for.
        seed: of levels, noise and order.
        protocol: of the degradations.
        device: to compute on.
    """

    images: ImageSet
    held_out: ImageSet | None
    degradations: Sequence[DegradationConfig]
    seed: int
    protocol: str
    device: torch.device


@dataclass(frozen=True)
class Part:
    """A fitted part.

    Attributes:
        state: its tensors.
        about: what else is needed to build it again, JSON-able.
        outcome: what a reader should know of the fit, JSON-able.
    """

    state: Mapping[str, torch.Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)
