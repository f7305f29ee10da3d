"""Attention transfer: compares where two networks look, not what they see there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.losses import LOSSES, Outputs
from fusiondistill.losses.feature import Layers, paired

if TYPE_CHECKING:
    import torch


@LOSSES.register(
    "attention",
    needs="features",
    labels="unused",
    source="Zagoruyko and Komodakis, Paying more attention to attention, ICLR 2017, arXiv:1612.03928; "
    "HobbitLong/RepDistiller",
)
def attention(
    student: Outputs,
    teacher: Outputs | None,
    labels: torch.Tensor,
    *,
    layers: Annotated[
        Layers | None,
        Field(description="weights by layer, like {stage1: 1, stage3: 1}; null: the network's feature layer, 1"),
    ] = None,
    power: Annotated[float, Field(gt=0, allow_inf_nan=False, description="p of the mean over channels")] = 2.0,
) -> torch.Tensor:
    """The squared distance of the student's and the teacher's attention maps, mean over images and positions.

    The map of a layer's output A, [B, F, h, w], is the mean over the channels of |A|^p, as a vector of length 1. Such
    distances are small: the published weight is 1000. With ``layers`` it is the weighted sum over these layers.
    """
    import torch

    assert teacher is not None and student.features is not None and teacher.features is not None
    if layers is None:
        return attention_loss(student.features, teacher.features, power)
    pairs = paired(student.layers or {}, teacher.layers or {}, layers)
    return torch.stack([weight * attention_loss(*pairs[name], power) for name, weight in layers.items()]).sum()


def attention_loss(student: torch.Tensor, teacher: torch.Tensor, power: float = 2.0) -> torch.Tensor:
    """Mean of (a_student - a_teacher)^2 over images and positions, `a = m / |m|`, `m = mean over channels of |A|^p`.

    Args:
        student: float [B, F, h, w], any precision; gradients flow into it. Channels may differ in number.
        teacher: float [B, F', h, w]; no gradient flows into it.
        power: p, above 0.

    Returns:
        0-d float32 tensor, computed in float32 also under autocast.

    Raises:
        ValueError: the shapes differ, or are those of no feature map.
    """
    if student.dim() < 3 or student.shape[2:] != teacher.shape[2:] or len(student) != len(teacher):
        maps = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(
            f"attention maps need features [B, F, h, w] of one size, the student's and teacher's are {maps}"
        )
    return (attention_map(student, power) - attention_map(teacher.detach(), power)).square().mean()


def attention_map(features: torch.Tensor, power: float) -> torch.Tensor:
    """float32 [B, h*w] of length 1 each; 0 where all features are 0."""
    from torch.nn import functional

    return functional.normalize(features.float().abs().pow(power).mean(1).flatten(1), dim=1)
