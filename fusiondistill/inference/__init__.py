"""Ways of inference: how the networks of a method come to one answer.

A way of inference is a function ``(classifiers, **parameters) -> nn.Module``. ``classifiers`` maps roles
(``expert-<degradation>``, or ``model`` of a single network) to modules that turn raw images, uint8 [B,3,H,W], into
logits, float32 [B,C]. The module that it returns takes the same images; its registration says what its output is.
Importing this package does not import torch.

Example:
    >>> @INFERENCE.register("first", replace=True)
    ... def first(classifiers):
    ...     "The first of the networks alone."
    ...     return next(iter(classifiers.values()))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fusiondistill.inference._fitting import At, Part
from fusiondistill.registry import Entry, Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["INFERENCE", "OUTPUTS", "At", "Inference", "Part", "combined"]

OUTPUTS = ("logits", "log-probabilities", "votes")
"""What a module may give: votes have no probabilities, so neither a likelihood nor a calibration error."""


class Inference(Entry):
    """A way of inference; ``function`` makes one module of classifiers by role."""

    @property
    def told(self) -> bool:
        """Whether it is told which degradation an image has, and so is given that degradation's network alone."""
        return bool(self.facts["told"])

    @property
    def gives(self) -> str:
        """What its module gives, one of :data:`OUTPUTS`."""
        return str(self.facts["gives"])

    @property
    def fits(self) -> Callable[..., Part] | None:
        """What fits its part, its own stage; None: it has none."""
        fits: Callable[..., Part] | None = self.facts["fits"]
        return fits

    @property
    def one(self) -> bool:
        """Whether it is a way in which a single network answers."""
        return bool(self.facts["one"])

    @property
    def transductive(self) -> bool:
        """Whether an image's answer depends on the images beside it."""
        return bool(self.facts["transductive"])

    @property
    def whole(self) -> bool:
        """Whether the networks are stored together with what makes them answer, as one module."""
        return self.fits is not None or self.one

    def passes(self, networks: int) -> int:
        """Forward passes an image, of so many networks."""
        return 1 if self.told or self.facts["picks"] else networks

    def weighs(self, degradations: int, parameters: Mapping[str, Any]) -> int:
        """How many parameters its part has for so many degradations."""
        weighs = self.facts["weighs"]
        return int(weighs(degradations, **self.checked(parameters))) if weighs else 0

    def notes(self) -> tuple[str, ...]:
        """What it gives and knows, for ``fusiondistill list``."""
        said = {
            "is told the degradation": self.told,
            "has a part that is fitted": self.fits is not None,
            "of one network": self.one,
            "transductive: sees several images at once": self.transductive,
        }
        return ("; ".join([f"gives {self.gives}", *(text for text, holds in said.items() if holds)]),)


class Inferences(Registry[Inference]):
    """The registry of ways of inference."""

    entry = Inference

    def register(  # type: ignore[override]  # what it gives is no fact among others
        self,
        name: str,
        *,
        gives: str = "logits",
        told: bool = False,
        alone: bool = False,
        fits: Callable[..., Part] | None = None,
        settles: Callable[..., Mapping[str, Any]] | None = None,
        weighs: Callable[..., int] | None = None,
        picks: bool = False,
        levels: bool = False,
        one: bool = False,
        transductive: bool = False,
        smallest: int = 1,
        version: int = 1,
        source: str = "",
        replace: bool = False,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make a function a way of inference.

        Args:
            name: lower-case letters, digits and underscores, a letter first.
            gives: what its module's output is, one of :data:`OUTPUTS`.
            told: is it told which degradation an image has?
            alone: told, does it answer with that degradation's network as it is? Then its evaluation is the network's.
            fits: ``(at, **parameters) -> Part``, see :class:`At` and :class:`Part`: fits a part on images, a stage of
                its own; the function gets it as ``part``.
            settles: ``(classifiers, images, about) -> Mapping``: what a fitted part has to know of the networks, from
                held-out images; it is added to what the part is about.
            weighs: ``(degradations, **parameters) -> int``, how many parameters that part has for so many degradations.
            picks: does each image go through one of the networks alone?
            levels: does it choose by the level, too, among ``expert-<degradation>_1``, ``_2`` and so on?
            one: is it a way in which a single network answers? Its role is ``model``.
            transductive: does an image's answer depend on the images beside it? Then the module takes the
                images of a batch in groups; its attribute ``together`` says of how many.
            smallest: pixels a side that images must have.
            version, source, replace: see :meth:`fusiondistill.registry.Registry.register`, which also says how
                parameters are written.

        The function is called as ``function(classifiers, **parameters)``. ``classifiers`` maps roles
        (``expert-<degradation>``) to modules from uint8 [B,3,H,W] to logits, float32 [B,C]; those of a way that is told
        hold the image's own alone. It returns an ``nn.Module`` of the same form.

        Raises:
            ValueError: as :meth:`fusiondistill.registry.Registry.register`; or ``gives`` is none of :data:`OUTPUTS`.

        Example:
            A file ``mine.py``, which the config names under ``plugins: [mine.py]``; then ``inference: confident``, or
            ``inference: {name: confident, temperature: 2.0}`` of a method with several networks:

            >>> import torch
            >>> from torch import nn
            >>> from fusiondistill import INFERENCE
            >>> class MostConfident(nn.Module):
            ...     def __init__(self, networks, temperature):
            ...         super().__init__()
            ...         self.networks, self.temperature = nn.ModuleList(networks), temperature
            ...
            ...     def forward(self, images):
            ...         logits = torch.stack([one(images) for one in self.networks]) / self.temperature
            ...         surest = logits.softmax(2).amax(2).argmax(0)  # the network that is surest of each image
            ...         return logits[surest, torch.arange(len(images), device=logits.device)]
            >>> @INFERENCE.register("confident")
            ... def confident(classifiers, *, temperature: float = 1.0):
            ...     "The network that is surest decides."
            ...     return MostConfident(classifiers.values(), temperature)
        """
        if gives not in OUTPUTS:
            raise ValueError(f"the way of inference {name!r} gives {gives!r}: expected one of {', '.join(OUTPUTS)}")
        if one and (told or fits or picks):
            raise ValueError(f"the way of inference {name!r} is one network's: it is told, fits and picks nothing")
        known = {"gives": gives, "told": told, "alone": told and alone, "fits": fits, "weighs": weighs}
        known |= {"settles": settles}
        known |= {"picks": picks, "levels": levels, "one": one, "transductive": transductive, "smallest": smallest}
        return super().register(name, version=version, source=source, replace=replace, **known)


INFERENCE = Inferences(
    "way of inference", __name__, takes=("classifiers",), reserved=frozenset({"name"}), offered=frozenset({"part"})
)
"""Every way of inference by name."""


def combined(
    name: str,
    classifiers: Mapping[str, nn.Module],
    parameters: Mapping[str, Any] | None = None,
    part: Part | None = None,
) -> nn.Module:
    """One module of several classifiers.

    Args:
        name: a way of inference.
        classifiers: by role; each takes uint8 [B,3,H,W] and gives logits [B,C].
        parameters: of the way of inference.
        part: what was fitted for it, where it has such a part.

    Returns:
        What the way of inference makes of them; its attribute ``gives`` says what its output is.

    Raises:
        ValueError: unknown name or parameter, or classifiers that do not go together.
    """
    entry = INFERENCE.find(name)
    from torch import nn

    fitted = {"part": part} if entry.fits else {}
    made: Any = entry.function(classifiers, **entry.checked(parameters or {}), **fitted)
    if not isinstance(made, nn.Module):
        raise entry.gave(f"must return an nn.Module, not {type(made).__name__}")
    made.__dict__["gives"] = entry.gives
    return made
