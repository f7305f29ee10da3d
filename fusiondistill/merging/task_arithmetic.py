"""Task arithmetic: the experts' changes added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "task_arithmetic",
    needs={"base"},
    single=True,
    scans={"scale"},
    source="Ilharco et al., Editing models with task arithmetic, ICLR 2023, arXiv:2212.04089",
)
def task_arithmetic(
    experts: Sequence[StateDict],
    at: At,
    *,
    scale: Annotated[float, Field(allow_inf_nan=False, description="scale of the sum of the experts' changes")] = 0.3,
) -> dict[str, torch.Tensor]:
    """The base plus `scale` times the sum of the experts' changes: `theta_0 + scale * sum_i (theta_i - theta_0)`.

    Computed in float64 and cast back once. With `scale` 1 / (number of experts) it is the average. `scale: [0.1, 0.2,
    0.3, 0.5, 1.0]` takes the best of these on validation.
    """
    from fusiondistill.state_dicts import moved

    return moved(experts, at.base, lambda name, gone: scale * gone.sum(0))
