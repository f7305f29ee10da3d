"""Loss terms: what a network is trained for, as named terms with weights.

An entry is a function ``(student: Outputs, teacher: Outputs or None, labels, **parameters) -> 0-d float32 tensor``.
The fact ``needs`` says what a term asks of teachers, and with it how it is called:

- ``nothing``: once a step, on the images of all degradations, with ``teacher`` None;
- ``logits``: once for each degradation, with its images and its teacher's logits; the results are summed;
- ``features``: the same, with feature maps of the student and the teacher beside the logits.

:func:`needs` is the one place that says what a loss needs. Nothing here imports torch before a term is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fusiondistill.registry import Registry

if TYPE_CHECKING:
    import torch

__all__ = ["LOSSES", "NEEDS", "Needs", "Outputs", "need_of", "needs"]

LOSSES = Registry("loss term", __name__, first=("ce", "feature", "kd"))
"""Loss terms by name."""

NEEDS = ("nothing", "logits", "features")
"""What a term may need of teachers."""


class Outputs(NamedTuple):
    """What one network says of a batch; None stands for what no term needs."""

    logits: torch.Tensor | None
    """float [B, C]."""
    features: torch.Tensor | None
    """The feature map, float [B, ...]."""


class Needs(NamedTuple):
    """What a loss needs, all terms of positive weight together."""

    teacher: bool
    """Teachers' outputs at all."""
    features: bool
    """Feature maps, of the student and of the teachers."""
    head: bool
    """The student's logits: without them its last layer gets no gradient."""


def need_of(term: str) -> str:
    """What a term needs of teachers: "nothing", "logits" or "features".

    Raises:
        UnknownEntry: there is no such term; a ValueError.
        ValueError: the term was registered with something else as its ``needs``.
    """
    need = str(LOSSES.find(term).facts.get("needs", "nothing"))
    if need not in NEEDS:
        raise ValueError(f"the loss term {term!r} says needs={need!r}: it must be one of {', '.join(NEEDS)}")
    return need


def needs(loss: Mapping[str, float | Mapping[str, Any]]) -> Needs:
    """What a loss needs.

    Args:
        loss: term -> its weight, or a mapping that holds it as ``weight``. Terms of weight 0 need nothing.

    Raises:
        ValueError: as :func:`need_of`.

    Example:
        >>> needs({"ce": 0.1, "kd": {"weight": 1.0, "temperature": 2.0}, "feature": 0})
        Needs(teacher=True, features=False, head=True)
    """
    weights = {term: given["weight"] if isinstance(given, Mapping) else given for term, given in loss.items()}
    found = {need_of(term) for term, weight in weights.items() if weight > 0}
    return Needs(bool(found & {"logits", "features"}), "features" in found, bool(found & {"nothing", "logits"}))
