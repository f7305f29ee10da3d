"""The uniform average ("model soups", Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register("average", single=True, source="Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482")
def average(experts: Sequence[StateDict], at: At) -> dict[str, torch.Tensor]:
    """The mean of each weight over the experts."""
    from fusiondistill import state_dicts

    return state_dicts.average(experts)
