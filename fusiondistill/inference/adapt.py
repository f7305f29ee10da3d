"""Test-time adaptation: BatchNorm's statistics from the images that are to be classified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.inference import INFERENCE

if TYPE_CHECKING:
    from torch import nn

__all__ = ["adapt"]


@INFERENCE.register(
    "adapt",
    one=True,
    transductive=True,
    source="Schneider et al. 2020, Improving robustness against common corruptions by covariate shift adaptation, "
    "arXiv:2006.16971",
)
def adapt(
    classifiers: Mapping[str, nn.Module],
    *,
    images: Annotated[int, Field(ge=2, le=4096, description="images that are looked at together")] = 32,
    prior: Annotated[float, Field(ge=0, le=1e6, description="images that the stored statistics count for")] = 16.0,
) -> nn.Module:
    """One network with BatchNorm statistics of the images that it classifies together.

    Images are taken in groups in their order; the last group may be smaller. In each BatchNorm the mean is
    (N mu + n m) / (N + n), with mu the stored one, m that of the group's n images there, and N the prior; the variance
    likewise. So a small last group keeps more of what is stored. A network without BatchNorm answers as it is.
    """
    from fusiondistill.inference._adapting import Adapted

    if len(classifiers) != 1:
        raise ValueError(f"adapt takes one network, not {len(classifiers)}: {', '.join(classifiers)}")
    return Adapted(next(iter(classifiers.values())), images, prior)
