"""Cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.losses import LOSSES, Outputs

if TYPE_CHECKING:
    import torch


@LOSSES.register("ce", needs="nothing", later={"label_smoothing": 0.0})
def ce(
    student: Outputs,
    teacher: Outputs | None,
    labels: torch.Tensor,
    *,
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="part of the target that is spread evenly over all classes")
    ] = 0.0,
) -> torch.Tensor:
    """The cross-entropy with the labels, in nats, mean over all images of the step, by the recipe's class weights.

    With label smoothing e the target is (1 - e) times the label plus e / C for each of the C classes; an image weighs
    by its own class.
    """
    from torch.nn import functional

    assert student.logits is not None
    logits = student.logits.float()
    if student.weights is None:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    # torch's weighted mean, whose sum of weights is that over the images of all workers.
    each = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return (student.weights * each).mean()
