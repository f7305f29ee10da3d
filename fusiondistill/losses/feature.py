"""A cosine loss on features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusiondistill.losses import LOSSES, Outputs

if TYPE_CHECKING:
    import torch


@LOSSES.register("feature", needs="features", source="FusionDistill's released code, dineshdaultani/FusionDistill")
def feature(student: Outputs, teacher: Outputs | None, labels: torch.Tensor) -> torch.Tensor:
    """1 - the cosine of the student's and the teacher's feature, each image's feature map as one vector; mean."""
    assert teacher is not None and student.features is not None and teacher.features is not None
    return cosine_feature_loss(student.features, teacher.features)


def cosine_feature_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over images of 1 - cos(student feature, teacher feature), each image's feature map taken as one vector.

    Args:
        student: float [B, ...], any precision; gradients flow into it.
        teacher: float, the same shape; no gradient flows into it.

    Returns:
        0-d float32 tensor in [0, 2], computed in float32 also under autocast. An all-zero feature counts as cosine 0.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> cosine_feature_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(1.)
    """
    from torch.nn import functional

    if student.shape != teacher.shape:
        raise ValueError(f"student feature {tuple(student.shape)} and teacher feature {tuple(teacher.shape)} differ")
    cosine = functional.cosine_similarity(student.float().flatten(1), teacher.detach().float().flatten(1), dim=1)
    return (1 - cosine).mean()
