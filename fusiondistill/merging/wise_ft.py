"""WiSE-FT: between the base and the average of the experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "wise_ft",
    needs={"base"},
    single=True,
    scans={"alpha"},
    source="Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022, arXiv:2109.01903",
)
def wise_ft(
    experts: Sequence[StateDict],
    at: At,
    *,
    alpha: Annotated[float, Field(ge=0, le=1, description="share of the average; 0 is the base")] = 0.5,
) -> dict[str, torch.Tensor]:
    """The straight line from the base to the average of the experts: `(1 - alpha) theta_0 + alpha mean_i theta_i`.

    With one expert it is WiSE-FT as published. Computed in float64 and cast back once. `alpha: [0.2, 0.4, 0.6, 0.8,
    1.0]` takes the best of these on validation.
    """
    from fusiondistill.state_dicts import moved

    return moved(experts, at.base, lambda name, gone: alpha * gone.mean(0))
