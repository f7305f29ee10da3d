"""Distillation of relations: predictions shall correlate with the teacher's, not equal them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.frozen import Weight
from fusiondistill.losses import LOSSES, Outputs
from fusiondistill.losses.kd import Temperature, check_alike

if TYPE_CHECKING:
    import torch


@LOSSES.register(
    "dist",
    needs="logits",
    labels="unused",
    source="Huang et al., Knowledge distillation from a stronger teacher, NeurIPS 2022, arXiv:2205.10536; "
    "hunto/DIST_KD",
)
def dist(
    student: Outputs,
    teacher: Outputs | None,
    labels: torch.Tensor,
    *,
    beta: Annotated[Weight, Field(description="weight of the correlation over the classes of each image")] = 1.0,
    gamma: Annotated[Weight, Field(description="weight of the correlation over the images of each class")] = 1.0,
    temperature: Temperature = 1.0,
) -> torch.Tensor:
    """`T^2 (beta (1 - r over classes) + gamma (1 - r over images))` with Pearson's r of the softened probabilities.

    With p and q the teacher's and the student's softmax at temperature T, [B, C]: the first r is the mean over images
    of the correlation of their rows, the second the mean over classes of the correlation of their columns. The images
    are those of one degradation in a step; of data-parallel workers each correlates over its own part of them.
    """
    assert teacher is not None and student.logits is not None and teacher.logits is not None
    check_alike(student.logits, teacher.logits)
    q = (student.logits.float() / temperature).softmax(1)
    p = (teacher.logits.detach().float() / temperature).softmax(1)
    return temperature**2 * (beta * (1 - correlation(q, p, 1)) + gamma * (1 - correlation(q, p, 0)))


def correlation(one: torch.Tensor, other: torch.Tensor, dim: int) -> torch.Tensor:
    """Pearson's correlation along a dimension of two float [B, C], the mean over the other one, 0-d.

    What is constant along the dimension counts as uncorrelated.

    Example:
        >>> correlation(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[2.0, 4.0, 8.0]]), 1)
        tensor(1.)
    """
    from torch.nn import functional

    first, second = (values - values.mean(dim, keepdim=True) for values in (one, other))
    return functional.cosine_similarity(first, second, dim=dim).mean()
