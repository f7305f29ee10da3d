"""Cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.losses import LOSSES, Outputs

if TYPE_CHECKING:
    import torch


@LOSSES.register("ce", needs="nothing", labels="mixed", later={"label_smoothing": 0.0})
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
    by its own class. Under mixup it is s times that with the image's label plus 1 - s times that with its partner's,
    s the image's share.
    """
    from torch.nn import functional

    assert student.logits is not None
    logits = student.logits.float()
    if student.mixed is not None:
        return mixed_ce(logits, labels, student, label_smoothing)
    if student.weights is None:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    # torch's weighted mean, whose sum of weights is that over the images of all workers.
    each = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return (student.weights * each).mean()


def mixed_ce(logits: torch.Tensor, labels: torch.Tensor, student: Outputs, label_smoothing: float) -> torch.Tensor:
    """The cross-entropy with the labels of two images in each, 0-d float32; see :func:`ce`."""
    from torch.nn import functional

    from fusiondistill.mixing import blended

    assert student.mixed is not None
    partners, share, theirs = student.mixed
    own, other = (
        functional.cross_entropy(logits, one, reduction="none", label_smoothing=label_smoothing)
        for one in (labels, partners)
    )
    if student.weights is not None and theirs is not None:
        own, other = student.weights * own, theirs * other
    return blended(own, other, share).mean()
