"""DARE: most of each change dropped at random, the rest made larger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "dare",
    needs={"base"},
    scans={"drop", "scale"},
    source="Yu et al., Language models are super Mario, ICML 2024, arXiv:2311.03099",
)
def dare(
    experts: Sequence[StateDict],
    at: At,
    *,
    drop: Annotated[float, Field(ge=0, lt=1, description="part of each expert's change that is dropped")] = 0.5,
    scale: Annotated[float, Field(allow_inf_nan=False, description="scale of the sum of the remaining changes")] = 0.3,
) -> dict[str, torch.Tensor]:
    """Task arithmetic on changes of which a random part is dropped and the rest made larger by as much.

    `theta_0 + scale * sum_i m_i (theta_i - theta_0) / (1 - drop)`; each number of the mask `m_i` is 0 with probability
    `drop` and 1 otherwise, a function of the seed (0 where there is none), the expert's place, the tensor's name and
    the weight's place in it. Computed in float64 and cast back once.
    """
    import torch

    from fusiondistill.randomness import key as address
    from fusiondistill.randomness import uniform
    from fusiondistill.state_dicts import moved

    seed = at.seed if at.has("seed") else 0

    def change(name: str, gone: torch.Tensor) -> torch.Tensor:
        places = torch.arange(gone[0].numel(), device=gone.device).view(gone[0].shape)
        for number, one in enumerate(gone):
            one *= uniform(address(seed, "dare", number, name), places) >= drop
        return scale * gone.sum(0) / (1 - drop)

    return moved(experts, at.base, change)
