"""The objective of a training: the weighted sum of the loss terms of its recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fusiondistill.loss import strength
from fusiondistill.losses import LOSSES, RAMPS, Mixed, Outputs, need_of, needs
from fusiondistill.precision import without_autocast
from fusiondistill.recipe import Loss
from fusiondistill.registry import Entry

__all__ = ["Objective"]


@dataclass(frozen=True)
class _Term:
    name: str
    weight: float
    entry: Entry
    parameters: Mapping[str, Any]
    need: str
    ramps: Mapping[str, Any]

    def __call__(self, student: Outputs, teacher: Outputs | None, labels: torch.Tensor) -> torch.Tensor:
        value = self.entry.function(student, teacher, labels, **self.parameters)
        if not isinstance(value, torch.Tensor):
            raise self.entry.gave(f"must return a tensor of one number, not {type(value).__name__}")
        if value.shape != ():
            raise self.entry.gave(f"must be one number, not of shape {tuple(value.shape)}")
        return value


class Objective:
    """The weighted sum of loss terms, the loss of every trained row of the table.

    A term that needs nothing of teachers is computed once over all images of the step. One that needs teachers' logits
    or features is computed for each degradation, and the results are summed (METHOD, Objectives). A term of weight 0
    is not computed.

    Args:
        loss: a recipe's loss, or what it is written as: term -> weight, or term -> {weight, parameters}. A mapping
            that does not name ``ce`` weighs it 1.
        device: where :meth:`loss` is computed, which counts where weights change with the epoch.

    Attributes:
        names: of the terms of positive weight, in the order of their sum.
        needs: what they need together; see :class:`fusiondistill.losses.Needs`.

    Raises:
        ValueError: an unknown term or parameter, a value out of range, or all weights are 0.

    Example:
        >>> Objective({"ce": 0.1, "feature": 1.0}).names
        ('ce', 'feature')
    """

    def __init__(self, loss: Loss | Mapping[str, Any], device: torch.device | None = None) -> None:
        terms = (loss if isinstance(loss, Loss) else Loss.model_validate(dict(loss))).weighted
        self.needs = needs(terms)
        self.names = tuple(terms)
        self._terms = [
            _Term(
                name,
                float(values["weight"]),
                LOSSES[name],
                LOSSES[name].resolve({key: one for key, one in values.items() if key not in ("weight", *RAMPS)}),
                need_of(name),
                {key: values[key] for key in RAMPS if key in values},
            )
            for name, values in terms.items()
        ]
        # Tensors, which a CUDA graph of a step reads anew.
        self._strengths = {term.name: torch.ones((), device=device) for term in self._terms if term.ramps}

    def begin(self, epoch: int, epochs: int) -> None:
        """Set the weights of an epoch, from 0, where terms have a warm-up or fade; see :func:`strength`."""
        for term in self._terms:
            if term.ramps:
                self._strengths[term.name].fill_(strength(term.ramps, epoch, epochs))

    def loss(
        self,
        logits: torch.Tensor,
        features: torch.Tensor | None,
        labels: torch.Tensor,
        slices: Sequence[slice],
        teachers: Sequence[Outputs] | None = None,
        layers: Mapping[str, torch.Tensor] | None = None,
        weights: torch.Tensor | None = None,
        mixed: Mixed | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of one step and its terms; nothing is read back from the device.

        All terms are given float32 and computed in it, also under autocast, and those of plugins, too.

        Args:
            logits: the student's, float [B, C] of any precision, the images of all degradations one after the other.
            features: the student's feature map, float [B, ...]; may be None unless `needs.features`.
            labels: int64 [B], 0..C-1.
            slices: for each degradation d, which of the B images are its own.
            teachers: for each degradation d the outputs of its teacher on the same images in the same order,
                logits [B_d, C] and features [B_d, ...]; may be None unless `needs.teacher`, and so may either half.
            layers: the student's outputs of the layers that terms ask for by name, float [B, ...].
            weights: what each image weighs in the cross-entropy, float [B]; None: all the same.
            mixed: what each image is mixed with; None without mixup.

        Returns:
            (total, terms): the weighted sum, a 0-d float32 tensor to call `backward` on, and the terms before
            weighting, detached 0-d float32 tensors by name; those of weight 0 are left out.

        Raises:
            ValueError: features or teachers are needed and not there, not one teacher per slice, or a term is no 0-d
                tensor.

        Example:
            >>> student, teacher = torch.zeros(4, 10), torch.randn(4, 10)
            >>> halves = [slice(0, 2), slice(2, 4)]
            >>> outputs = [Outputs(teacher[half], None) for half in halves]
            >>> total, terms = Objective({"ce": 0.1, "kd": 1}).loss(student, None, torch.arange(4), halves, outputs)
            >>> sorted(terms)
            ['ce', 'kd']
        """
        with without_autocast(logits.device):
            student = _in_float32(Outputs(logits, features, layers, weights, mixed, max(1, len(slices))))
            taught = None if teachers is None else [_in_float32(one) for one in teachers]
            return self._loss(student, labels, slices, taught)

    def _loss(
        self, student: Outputs, labels: torch.Tensor, slices: Sequence[slice], teachers: Sequence[Outputs] | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        weighted: dict[str, tuple[float, torch.Tensor]] = {}
        for term in self._terms:
            if term.need == "nothing":
                value = term(student, None, labels)
            else:
                pairs = _pairs(term.need, student, labels, slices, teachers)
                value = _sum(term(*pair) for pair in pairs)
            weighted[term.name] = term.weight, value
        total = _sum(self._strong(name, weight * value) for name, (weight, value) in weighted.items())
        return total, {name: value.detach() for name, (_, value) in weighted.items()}

    def _strong(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """The weighted value of a term, as much of it as counts in this epoch."""
        return self._strengths[name] * value if name in self._strengths else value


def _in_float32(outputs: Outputs) -> Outputs:
    """What a network said under autocast, in float32; float32 itself is not copied."""
    logits, features = (None if one is None else one.float() for one in outputs)
    layers = outputs.layers and {name: one.float() for name, one in outputs.layers.items()}
    return Outputs(logits, features, layers, outputs.weights, outputs.mixed, outputs.views)


def _sum(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(terms)).sum()


def _pairs(
    need: str,
    student: Outputs,
    labels: torch.Tensor,
    slices: Sequence[slice],
    teachers: Sequence[Outputs] | None,
) -> list[tuple[Outputs, Outputs, torch.Tensor]]:
    """(student, teacher, labels) of each degradation."""
    if getattr(student, need) is None:
        raise ValueError(f"the objective needs the student's {need}")
    if teachers is None or len(teachers) != len(slices) or not slices:
        count = "none" if teachers is None else len(teachers)
        raise ValueError(f"the objective needs one teacher per degradation: {len(slices)} slices, teachers: {count}")
    if any(getattr(teacher, need) is None for teacher in teachers):
        raise ValueError(f"the objective needs the teachers' {need}")
    return [(student.part(part), teacher, labels[part]) for part, teacher in zip(slices, teachers, strict=True)]
