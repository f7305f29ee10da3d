"""Loss terms: what a network is trained for, as named terms with weights.

An entry is a function ``(student: Outputs, teacher: Outputs or None, labels, **parameters) -> 0-d float32 tensor``.
The fact ``needs`` says what a term asks of teachers, and with it how it is called:

- ``nothing``: once a step, on the images of all degradations, with ``teacher`` None;
- ``logits``: once for each degradation, with its images and its teacher's logits; the results are summed;
- ``features``: the same, with feature maps of the student and the teacher beside the logits.

:func:`needs` is the one place that says what a loss needs. Nothing here imports torch before a term is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fusiondistill.registry import Entry, Registry

if TYPE_CHECKING:
    import torch

__all__ = ["LABELS", "LOSSES", "NEEDS", "RAMPS", "Mixed", "Needs", "Outputs", "need_of", "needs"]

NEEDS = ("nothing", "logits", "features")
"""What a term may need of teachers."""
LABELS = ("one", "unused", "mixed")
"""What a term may do with labels."""

RAMPS = {
    "warmup": "fraction of all epochs, from the first on, in which the weight rises from 0",
    "fade": "fraction of all epochs, up to the last, in which the weight falls to 0",
}
"""Keys of a term, beside its weight, that change the weight over the epochs -> what they say."""

Term = Callable[..., "torch.Tensor"]


class LossTerm(Entry):
    """A loss term."""

    def notes(self) -> tuple[str, ...]:
        """The teachers' outputs that it needs and what it refuses, for ``fusiondistill list``."""
        need, single = self.facts["needs"], self.facts["labels"] == "one"
        taught = () if need == "nothing" else (f"needs teachers: their {need}",)
        paired = ("with pairing: same, on all degradations",) if self.facts["across"] else ()
        return (*taught, *paired, *(("not with mixup: it takes each image to be of one class",) if single else ()))


class Losses(Registry[LossTerm]):
    """The registry of loss terms."""

    entry = LossTerm

    def register(  # type: ignore[override]  # what a term needs is no fact among others
        self,
        name: str,
        *,
        needs: str = "nothing",
        labels: str = "one",
        across: bool = False,
        later: Mapping[str, Any] | None = None,
        version: int = 1,
        source: str = "",
        replace: bool = False,
    ) -> Callable[[Term], Term]:
        """Make a function a loss term: ``loss: {NAME: WEIGHT}``, or ``{NAME: {weight: ..., PARAMETER: ...}}``.

        Args:
            name: lower-case letters, digits and underscores, a letter first; also a column of a training's metrics.
            needs: what the term asks of teachers, one of :data:`NEEDS`.
            labels: ``one``: the term takes each image to be of one class, so that it goes with no mixup; ``unused``: it
                looks at no label; ``mixed``: it heeds ``student.mixed``.
            across: whether it compares the same images under all degradations of a step, so that it takes ``pairing:
                same``; ``student.views`` says how many they are, whose images follow one another in the same order.
            later: parameters that came after results were stored, with their defaults: digests and files leave these
                out where they are as before.
            version, source, replace: see :meth:`fusiondistill.registry.Registry.register`, which also says how
                parameters are written.

        The function is called as ``function(student, teacher, labels, **parameters)`` and returns a 0-d tensor, the
        mean over its images; gradients flow through ``student``. ``student`` and ``teacher`` are :class:`Outputs`:
        ``logits``, float [B,C], and ``features``, float [B,...], in float32 where training has a reduced precision. A
        term with a parameter ``layers``, a mapping from dotted names of layers, also has those layers' outputs in
        ``layers``, by name. Where a recipe has class weights, ``student.weights`` says what each image weighs; under
        mixup ``student.mixed`` says what each image is mixed with.
        ``labels`` is int64 [B]. With ``needs="nothing"`` it is called once a step, ``teacher`` is None, and features
        may be; else once for each degradation, and the results are summed.

        Raises:
            ValueError: as :meth:`fusiondistill.registry.Registry.register`; or ``needs`` is none of :data:`NEEDS`, or
                ``labels`` none of :data:`LABELS`.

        Example:
            A file ``mine.py``, which the config names under ``plugins: [mine.py]``:

            >>> from typing import Annotated
            >>> from pydantic import Field
            >>> from fusiondistill import LOSSES
            >>> @LOSSES.register("margin", needs="nothing")
            ... def margin(student, teacher, labels, *, width: Annotated[float, Field(gt=0)] = 1.0):
            ...     "How far the label's logit is from being the largest by a margin."
            ...     logits = student.logits
            ...     return (width + logits - logits.gather(1, labels[:, None])).relu().mean()
        """
        if needs not in NEEDS:
            raise ValueError(f"the loss term {name!r} says needs={needs!r}: it must be one of {', '.join(NEEDS)}")
        if labels not in LABELS:
            raise ValueError(f"the loss term {name!r} says labels={labels!r}: it must be one of {', '.join(LABELS)}")
        facts = {"needs": needs, "labels": labels, "across": across, "later": later or {}}
        return super().register(name, version=version, source=source, replace=replace, **facts)


LOSSES = Losses(
    "loss term",
    __name__,
    first=("ce", "feature", "kd"),
    takes=("student", "teacher", "labels"),
    reserved=frozenset({"weight", *RAMPS}),
)
"""Loss terms by name."""


class Mixed(NamedTuple):
    """The partners of a batch's images (mixup)."""

    labels: torch.Tensor
    """int64 [B], those of the partners."""
    share: torch.Tensor
    """float32 [B], the share of each image itself, 0 to 1; its partner has the rest."""
    weights: torch.Tensor | None = None
    """float [B], what each partner weighs by its class, as :attr:`Outputs.weights`."""

    def part(self, images: slice) -> Mixed:
        """That of some of the images."""
        return Mixed(self.labels[images], self.share[images], None if self.weights is None else self.weights[images])


class _Pair(NamedTuple):
    logits: torch.Tensor | None
    features: torch.Tensor | None


class Outputs(_Pair):
    """The outputs of one network for a batch, a pair (logits, features); None where no term needs one.

    Attributes:
        logits: float [B, C].
        features: the feature map, float [B, ...].
        layers: outputs of layers that a term asks for by name, float [B, ...] each; no part of the pair.
        weights: of a student, float [B], what each image weighs by its class (mean 1 over the images of a step); None
            where all weigh the same; no part of the pair.
        mixed: of a student, what each image is mixed with; None without mixup; no part of the pair.
        views: how many degradations the images are of; no part of the pair.
    """

    layers: Mapping[str, torch.Tensor] | None
    weights: torch.Tensor | None
    mixed: Mixed | None
    views: int

    def __new__(
        cls,
        logits: torch.Tensor | None,
        features: torch.Tensor | None,
        layers: Mapping[str, torch.Tensor] | None = None,
        weights: torch.Tensor | None = None,
        mixed: Mixed | None = None,
        views: int = 1,
    ) -> Outputs:
        """The pair, with the rest beside it."""
        made = super().__new__(cls, logits, features)
        made.layers, made.weights, made.mixed, made.views = layers, weights, mixed, views
        return made

    def part(self, images: slice) -> Outputs:
        """The outputs for some of the images."""
        logits, features = (None if one is None else one[images] for one in self)
        layers = None if self.layers is None else {name: one[images] for name, one in self.layers.items()}
        weights = None if self.weights is None else self.weights[images]
        return Outputs(logits, features, layers, weights, self.mixed and self.mixed.part(images))


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
    """
    return str(LOSSES.find(term).facts["needs"])


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
