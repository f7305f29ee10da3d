"""A cosine loss on features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from fusiondistill.losses import LOSSES, Outputs

if TYPE_CHECKING:
    import torch


def _weighed(layers: dict[str, float]) -> dict[str, float]:
    """The layers of positive weight, in the order of the alphabet."""
    found = {name: layers[name] for name in sorted(layers) if layers[name] > 0}
    if not found:
        raise ValueError("give a layer a positive weight, like {stage1: 0.5, stage3: 1}, or weigh the term itself 0")
    return found


Layers = Annotated[
    dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
    AfterValidator(_weighed),
]


@LOSSES.register(
    "feature",
    needs="features",
    labels="unused",
    later={"layers": None},
    source="FusionDistill's released code, dineshdaultani/FusionDistill",
)
def feature(
    student: Outputs,
    teacher: Outputs | None,
    labels: torch.Tensor,
    *,
    layers: Annotated[
        Layers | None,
        Field(description="weights by layer, like {stage1: 0.5, stage3: 1}; null: the network's feature layer, 1"),
    ] = None,
) -> torch.Tensor:
    """1 - the cosine of the student's and the teacher's feature, each image's feature map as one vector; mean.

    With ``layers`` the weighted sum of that over these layers' outputs, as the released code weighs its three stages
    (its settings: 0, 0, 1); the weights are not divided by their sum.
    """
    assert teacher is not None and student.features is not None and teacher.features is not None
    if layers is None:
        return cosine_feature_loss(student.features, teacher.features)
    return layered_feature_loss(student.layers or {}, teacher.layers or {}, layers)


def layered_feature_loss(
    student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor], weights: Mapping[str, float]
) -> torch.Tensor:
    """`sum_l w_l * cosine_feature_loss(student_l, teacher_l)` over layers l.

    Args:
        student, teacher: layer -> its output, float [B, ...], as :func:`cosine_feature_loss` takes it.
        weights: layer -> its weight.

    Returns:
        0-d float32 tensor.

    Raises:
        ValueError: the output of a layer is not there, or the shapes differ.
    """
    import torch

    pairs = paired(student, teacher, weights)
    return torch.stack([weight * cosine_feature_loss(*pairs[name]) for name, weight in weights.items()]).sum()


def paired(
    student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor], layers: Iterable[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer -> its output of the student and of the teacher.

    Raises:
        ValueError: the output of a layer is not there.
    """
    if missing := [name for name in layers if name not in student or name not in teacher]:
        raise ValueError(f"the loss needs the output of the layer {missing[0]!r}, of the student and of teachers")
    return {name: (student[name], teacher[name]) for name in layers}


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
