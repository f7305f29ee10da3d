"""Decoupled knowledge distillation: the target class and the others apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.frozen import Weight
from fusiondistill.losses import LOSSES, Outputs
from fusiondistill.losses.kd import Standardise, Temperature, check_alike, prepared

if TYPE_CHECKING:
    import torch


@LOSSES.register(
    "dkd",
    needs="logits",
    later={"standardise": False},
    source="Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv:2203.08679; megvii-research/mdistiller",
)
def dkd(
    student: Outputs,
    teacher: Outputs | None,
    labels: torch.Tensor,
    *,
    alpha: Annotated[Weight, Field(description="weight of the target class against the rest")] = 1.0,
    beta: Annotated[Weight, Field(description="weight of the classes that are not the target")] = 8.0,
    temperature: Temperature = 4.0,
    standardise: Standardise = False,
) -> torch.Tensor:
    """Decoupled distillation: `alpha` times that of the target class, `beta` times that of the others, times T^2.

    With p the teacher's and q the student's softmax at temperature T, and t the label: TCKD is KL((p_t, 1 - p_t) ||
    (q_t, 1 - q_t)), and NCKD is the KL of the two softmaxes over the classes other than t. The result is `T^2 (alpha
    TCKD + beta NCKD)`, mean over the images. KD is TCKD + (1 - p_t) NCKD. The published trainings raise its weight
    over the first 20 epochs of 240: ``warmup: 0.083``. ``standardise`` is that of kd.
    """
    assert teacher is not None and student.logits is not None and teacher.logits is not None
    logits = prepared(student.logits, teacher.logits, standardise)
    target, others = decoupled(*logits, labels, temperature)
    return temperature**2 * (alpha * target.mean() + beta * others.mean())


def decoupled(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(TCKD, NCKD) of each image, float32 [B] in nats, without the factor T^2; computed in float32 under autocast, too.

    Args:
        student: logits, float [B, C] with C at least 2, any precision; gradients flow into it.
        teacher: logits, float [B, C]; no gradient flows into it.
        labels: int64 [B], 0..C-1.
        temperature: above 0.

    Raises:
        ValueError: the shapes differ, or there is one class only.
    """
    import torch

    check_alike(student, teacher)
    classes = student.shape[1]
    if classes < 2:
        raise ValueError("decoupled distillation needs at least 2 classes")
    target = labels[:, None]
    others = torch.arange(classes - 1, device=labels.device)[None]
    others = others + (others >= target)  # every class but the target, int64 [B, C-1]
    q = torch.log_softmax(student.float() / temperature, dim=1)
    p = torch.log_softmax(teacher.detach().float() / temperature, dim=1)
    q_others, p_others = q.gather(1, others), p.gather(1, others)
    q_rest, p_rest = q_others.logsumexp(1, keepdim=True), p_others.logsumexp(1, keepdim=True)
    p_two, q_two = torch.cat([p.gather(1, target), p_rest], 1), torch.cat([q.gather(1, target), q_rest], 1)
    return _kl(p_two, q_two), _kl(p_others - p_rest, q_others - q_rest)


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of each row of log-probabilities."""
    return (p.exp() * (p - q)).sum(1)
