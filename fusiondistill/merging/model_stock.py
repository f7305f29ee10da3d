"""Model Stock: between the base and the average, by how much the experts' changes agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "model_stock", needs=frozenset({"base"}), source="Jang et al., Model Stock, ECCV 2024, arXiv:2403.19522"
)
def model_stock(experts: Sequence[StateDict], at: At) -> dict[str, torch.Tensor]:
    """Each tensor between the base and the average, the nearer to the average the more the experts' changes agree.

    With N experts and c the mean cosine between two experts' changes of a tensor, `t = N c / (1 + (N - 1) c)` in
    [0, 1], and the tensor is `t * mean + (1 - t) * base`. A change of zero has cosine 0 with every other; a single
    expert stays as it is. Computed in float64 and cast back once.
    """
    from fusiondistill.state_dicts import moved

    return moved(experts, at.base, lambda name, gone: _share(gone.reshape(len(gone), gone[0].numel())) * gone.mean(0))


def _share(changes: torch.Tensor) -> float:
    """The share t of the mean, for changes float64 [N, n]."""
    count = len(changes)
    if count == 1:
        return 1.0
    directions = changes / changes.norm(dim=1, keepdim=True).clamp(min=1e-300)
    cosines = directions @ directions.T
    mean = float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))
    return min(1.0, max(0.0, count * mean / (1 + (count - 1) * mean))) if mean > 0 else 0.0
