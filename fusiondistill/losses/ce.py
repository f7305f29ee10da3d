"""Cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusiondistill.losses import LOSSES, Outputs

if TYPE_CHECKING:
    import torch


@LOSSES.register("ce", needs="nothing")
def ce(student: Outputs, teacher: Outputs | None, labels: torch.Tensor) -> torch.Tensor:
    """The cross-entropy with the labels, in nats, mean over all images of the step, by the recipe's class weights."""
    from torch.nn import functional

    assert student.logits is not None
    if student.weights is None:
        return functional.cross_entropy(student.logits.float(), labels)
    # torch's weighted mean, whose sum of weights is that over the images of all workers.
    return (student.weights * functional.cross_entropy(student.logits.float(), labels, reduction="none")).mean()
