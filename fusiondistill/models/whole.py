"""Networks and how they answer, as one module: what a row of several networks is at run time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fusiondistill.data.preparation import Preparation
from fusiondistill.models.classifier import Classifier, ImageClassifier

if TYPE_CHECKING:
    from fusiondistill.inference._routing import Route

__all__ = ["Whole", "names_of", "route_of", "single_apart", "together"]


class Whole(Classifier):
    """What a way of inference makes of classifiers, with the facts that a classifier has.

    Args:
        answers: the module that the way of inference made: uint8 [B,3,H,W] -> float32 [B,C].
        classes: names of the classes, in the order of its outputs.
        gives: what its outputs are, one of :data:`fusiondistill.inference.OUTPUTS`.
        transductive: whether an image's answer depends on the images beside it.
    """

    def __init__(self, answers: nn.Module, classes: Sequence[str], gives: str, *, transductive: bool = False) -> None:
        super().__init__()
        self.answers, self.classes, self.gives, self.transductive = answers, tuple(classes), gives, transductive

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores float32 [B,C] of images uint8 [B,3,H,W]; raises as :class:`ImageClassifier`."""
        self.check(images)
        scores: torch.Tensor = self.answers(images)
        return scores

    def check(self, images: torch.Tensor) -> None:
        """Raise if its classifiers do not take images of this shape and type."""
        next(iter(self._parts())).check(images)

    @property
    def together(self) -> int:
        """How many images it looks at together; 1 where each has its answer by itself."""
        return int(getattr(self.answers, "together", 1)) if self.transductive else 1

    @property
    def preparation(self) -> Preparation:
        """How files become images that it takes."""
        return next(iter(self._parts())).preparation

    @preparation.setter
    def preparation(self, value: Preparation) -> None:
        for part in self._parts():
            part.preparation = value

    def _parts(self) -> list[ImageClassifier]:
        return [part for part in self.modules() if isinstance(part, ImageClassifier)]

    def with_parts(self, make: Any) -> Whole:
        """A copy with ``make(classifier)`` in the place of each of its classifiers, which are not copied."""
        return copy.deepcopy(self, {id(part): make(part) for part in self._parts()})


def route_of(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, Route | None]:
    """Logits of images uint8 [B,3,H,W], and what a router says of them; None where the model has none."""
    answers = _answers(model)
    if not hasattr(answers, "routed"):
        logits: torch.Tensor = model(images)
        return logits, None
    if isinstance(model, Whole):
        model.check(images)
    found: tuple[torch.Tensor, Route] = answers.routed(images)
    return found


def _answers(model: nn.Module) -> Any:
    """The module that may have a router."""
    return model.answers if isinstance(model, Whole) else model


def names_of(model: nn.Module) -> tuple[str, ...]:
    """What the router of a model can name; empty where it has none."""
    answers = _answers(model)
    return tuple(answers.names) if hasattr(answers, "routed") else ()


def together(model: nn.Module) -> int:
    """How many images a model looks at together; 1 where each has its answer by itself."""
    return model.together if isinstance(model, Whole) else 1


def single_apart(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, Route | None]:
    """:func:`route_of` for a batch of any size: a single image is doubled, since torch would use other kernels for it.

    It stays alone where a model looks at several images together.
    """
    if len(images) > 1 or together(model) > 1:
        return route_of(model, images)
    logits, route = route_of(model, images.expand(2, -1, -1, -1))
    return logits[:1], None if route is None else type(route)(*(one[:1] for one in route))
