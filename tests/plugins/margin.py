"""Loss terms of one's own, one of each kind."""

from typing import Annotated

import torch
from pydantic import Field

from fusiondistill import LOSSES


@LOSSES.register("margin", needs="nothing")
def margin(student, teacher, labels, *, width: Annotated[float, Field(gt=0, description="in logits")] = 1.0):
    """How far the label's logit is from being the largest by a margin."""
    own = student.logits.float().gather(1, labels[:, None])
    return torch.relu(width + student.logits.float() - own).mean()


@LOSSES.register("squared", needs="logits")
def squared(student, teacher, labels):
    """The squared distance of the student's and the teacher's logits."""
    return (student.logits.float() - teacher.logits.float()).square().mean()


@LOSSES.register("whole", needs="features")
def whole(student, teacher, labels):
    """No single number: what the objective refuses."""
    return student.features - teacher.features
