"""Consistency: the same image under all degradations of a step should be answered alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusiondistill.losses import LOSSES, Outputs

if TYPE_CHECKING:
    import torch


@LOSSES.register(
    "consistency",
    needs="nothing",
    labels="unused",
    across=True,
    source="Hendrycks et al., AugMix, ICLR 2020, arXiv:1912.02781; google-research/augmix",
)
def consistency(student: Outputs, teacher: Outputs | None, labels: torch.Tensor) -> torch.Tensor:
    """The Jensen-Shannon divergence of the student's predictions for one image under each degradation, in nats.

    With p_d the softmax under degradation d of D and m their mean it is `mean over d of KL(p_d || m)`, mean over the
    images. It costs no extra pass: AugMix makes two more views of an image, here the degradations of a step are
    the views (``pairing: same``). AugMix weighs it 12.
    """
    assert student.logits is not None
    return jensen_shannon(student.logits.unflatten(0, (student.views, -1)))


def jensen_shannon(logits: torch.Tensor) -> torch.Tensor:
    """The Jensen-Shannon divergence of the softmaxes of D views, mean over images, 0-d float32, 0 to log D.

    Args:
        logits: float [D, B, C], D at least 2.

    Raises:
        ValueError: there is one view only.
    """
    import math

    if len(logits) < 2:
        raise ValueError("consistency compares an image under two or more degradations, and there is one")
    log_p = logits.float().log_softmax(2)
    log_m = log_p.logsumexp(0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_m)).sum(2).mean()
