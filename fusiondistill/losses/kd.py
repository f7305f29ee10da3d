"""Distillation of softened logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.losses import LOSSES, Outputs

if TYPE_CHECKING:
    import torch

Temperature = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="T of the softened logits: larger is softer")
]


Standardise = Annotated[
    bool,
    Field(
        description="logits of each image to mean 0 and standard deviation 1 before the temperature, of student and "
        "teacher: the shape is taught, not the size (published: kd at temperature 2, weight 9)"
    ),
]


@LOSSES.register(
    "kd",
    needs="logits",
    labels="unused",
    later={"standardise": False},
    source="Hinton et al., Distilling the knowledge, 2015, arXiv:1503.02531; standardise: Sun et al., Logit "
    "standardization in knowledge distillation, CVPR 2024, arXiv:2403.01427",
)
def kd(
    student: Outputs,
    teacher: Outputs | None,
    labels: torch.Tensor,
    *,
    temperature: Temperature = 4.0,
    standardise: Standardise = False,
) -> torch.Tensor:
    """T^2 KL(teacher || student) on logits softened by the temperature T, mean over the images.

    With ``standardise`` each row z of logits is (z - mean) / std before it is softened.
    """
    assert teacher is not None and student.logits is not None and teacher.logits is not None
    return softened_kl(*prepared(student.logits, teacher.logits, standardise), temperature)


def prepared(student: torch.Tensor, teacher: torch.Tensor, standardise: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of both, standardised if asked for."""
    return (standardised(student), standardised(teacher)) if standardise else (student, teacher)


def check_alike(student: torch.Tensor, teacher: torch.Tensor) -> None:
    """Raise ValueError where the logits of student and teacher differ in shape, which torch would broadcast."""
    if student.shape != teacher.shape:
        raise ValueError(f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} differ")


def standardised(logits: torch.Tensor) -> torch.Tensor:
    """Each row's z-scores: (z - mean) / (std + 1e-7), std with C - 1 in the denominator, as the authors' code has it.

    Args:
        logits: float [B, C] with C at least 2, any precision.

    Returns:
        float32 [B, C]; 0 where all logits of a row are equal.

    Example:
        >>> standardised(torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=3)
        tensor([[-1.,  0.,  1.]])
    """
    values = logits.float()
    return (values - values.mean(1, keepdim=True)) / (values.std(1, keepdim=True) + 1e-7)


def softened_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Hinton's distillation loss: T^2 * KL(teacher || student) of the softmaxes at temperature T, batch mean.

    The factor T^2 keeps the size of the gradient comparable between temperatures (arXiv:1503.02531, section 2).

    Args:
        student_logits: float [B, C], any precision; gradients flow into it.
        teacher_logits: float [B, C]; no gradient flows into it.
        temperature: above 0; larger is softer.

    Returns:
        0-d float32 tensor, >= 0, in nats times T^2, computed in float32 also under autocast.

    Raises:
        ValueError: the shapes differ (:func:`check_alike`).

    Example:
        >>> softened_kl(torch.zeros(1, 2), torch.zeros(1, 2), temperature=4.0)
        tensor(0.)
    """
    from torch.nn import functional

    check_alike(student_logits, teacher_logits)
    student = functional.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
