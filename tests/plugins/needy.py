"""A loss term with a parameter that has to be given, and one whose name is taken by the metrics."""

from typing import Annotated

from pydantic import Field

from fusiondistill import LOSSES


@LOSSES.register("needy", needs="logits")
def needy(student, teacher, labels, *, depth: Annotated[int, Field(ge=1, description="of the term")]):
    """The mean logit, `depth` times."""
    return depth * student.logits.mean()


@LOSSES.register("lr")
def lr(student, teacher, labels):
    """Named like a column of the metrics."""
    return student.logits.mean()
