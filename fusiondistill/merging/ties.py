"""TIES-merging: trim, elect sign, disjoint mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "ties",
    needs={"base"},
    scans={"density", "scale"},
    later={"scale": 1.0},
    source="Yadav et al., TIES-Merging, NeurIPS 2023, arXiv:2306.01708",
)
def ties(
    experts: Sequence[StateDict],
    at: At,
    *,
    density: Annotated[float, Field(gt=0, le=1, description="part of each expert's change that is kept")] = 0.2,
    scale: Annotated[float, Field(allow_inf_nan=False, description="scale of the merged change (lambda)")] = 1.0,
) -> dict[str, torch.Tensor]:
    """TIES: keeps the largest part of each expert's change, and takes at each weight the mean of those of one sign.

    Of each expert's change `tau_i = theta_i - base` the `density` of the largest magnitudes (over the whole network)
    is kept, the rest set to 0. Each weight's sign is that of the sum of what is kept. The merged change is the mean of
    the kept values with that sign, and `scale` times it is added to the base; where the signs cancel out, the base
    stays. Computed in float64.
    """
    import torch

    from fusiondistill.state_dicts import flattened, parameter_keys

    first = experts[0]
    keys = list(parameter_keys(first))
    start = flattened(at.base, keys)
    total, count = torch.zeros_like(start), torch.zeros_like(start)
    changes = [_trimmed(flattened(state, keys) - start, density) for state in experts]
    elected = torch.stack(changes).sum(0).sign()
    for change in changes:
        agrees = (change.sign() == elected) & (change != 0)
        total += torch.where(agrees, change, 0)
        count += agrees
    merged = start + scale * (total / count.clamp(min=1))
    parts = merged.split([first[key].numel() for key in keys])
    return {key: values.view(first[key].shape).to(first[key]) for key, values in zip(keys, parts, strict=True)}


def _trimmed(change: torch.Tensor, density: float) -> torch.Tensor:
    """The entries of the largest magnitudes, the others 0; entries as large as the last one stay, too."""
    import torch

    kept = max(1, math.ceil(density * len(change)))
    smallest = change.abs().kthvalue(len(change) - kept + 1).values
    return torch.where(change.abs() >= smallest, change, 0)
