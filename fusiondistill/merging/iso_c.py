"""Iso-C: the summed change of each layer, as strong in every direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "iso_c",
    needs={"base"},
    scans={"scale"},
    source="Marczak et al., No task left behind: isotropic model merging, ICML 2025, arXiv:2502.04959",
)
def iso_c(
    experts: Sequence[StateDict],
    at: At,
    *,
    scale: Annotated[float, Field(allow_inf_nan=False, description="scale of the merged change")] = 1.0,
) -> dict[str, torch.Tensor]:
    """The summed changes of each layer with equal singular values, added to the base.

    A weight with two or more dimensions is the matrix [first, all others], a 3x3 convolution [Cout, Cin * 9]. Of
    `sum_i (theta_i - theta_0) = U S V^T` it takes `theta_0 + scale * mean(S) U V^T`. Of other parameters it takes
    `theta_0 + scale * mean_i (theta_i - theta_0)`. `scale: [0.5, 1.0, 1.5]` takes the best on validation. Computed in
    float64 and cast back once.
    """
    import torch

    from fusiondistill.state_dicts import moved

    def change(name: str, gone: torch.Tensor) -> torch.Tensor:
        if gone.dim() < 3 or not gone.numel():
            return scale * gone.mean(0)
        whole = gone.sum(0)
        left, values, right = torch.linalg.svd(whole.flatten(1), full_matrices=False)
        even = (values.mean() * left @ right).view(whole.shape)
        return scale * (even if bool(values.any()) else torch.zeros_like(whole))

    return moved(experts, at.base, change)
