"""The median, which a single outlying network cannot move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register("median")
def median(experts: Sequence[StateDict], at: At) -> dict[str, torch.Tensor]:
    """The median of each weight; of an even number of experts the mean of the middle two.

    Computed in float64 and cast back once.
    """
    import torch

    from fusiondistill.state_dicts import parameter_keys

    merged, count = {}, len(experts)
    for key in parameter_keys(experts[0]):
        first = experts[0][key]
        values = torch.stack([state[key].detach().to(first.device, torch.float64) for state in experts])
        ordered = values.sort(dim=0).values
        merged[key] = ((ordered[(count - 1) // 2] + ordered[count // 2]) / 2).to(first.dtype)
    return merged
