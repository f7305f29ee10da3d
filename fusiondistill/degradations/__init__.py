"""Image degradations: exact to the pixel, in batches, on any device.

``degrade(images, "blur", levels, seed=0)`` is the whole interface. The paper's four (:data:`PAPER_DEGRADATIONS`) are
what training and evaluation use unless told otherwise; the others are *unseen*: for evaluation outside the training
distribution. :func:`register` and :func:`compose` add one's own. :func:`reference_degrade` is the slow twin through
imagedegrade. Importing this package does not import torch; the names that need it are loaded on first use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fusiondistill.lazy import lazily
from fusiondistill.registry import Entry, Registry

if TYPE_CHECKING:
    from fusiondistill.degradations.machinery.composition import compose, in_turn
    from fusiondistill.degradations.machinery.grid import degrade_grid
    from fusiondistill.degradations.machinery.operator import PROTOCOLS, degrade
    from fusiondistill.degradations.machinery.reference import reference_degrade

__all__ = [
    "DEGRADATIONS",
    "PAPER_DEGRADATIONS",
    "PROTOCOLS",
    "Degradation",
    "compose",
    "degrade",
    "degrade_grid",
    "find",
    "in_turn",
    "reference_degrade",
    "register",
]

PAPER_DEGRADATIONS = ("jpeg", "blur", "noise", "saltpepper")
"""The four that the paper trains and tests on: the default wherever degradations are not named."""

OFFERED = frozenset({"keys", "protocol"})
"""Arguments that every degradation may ask for by name; no parameters that a config gives."""

Function = Callable[..., Any]


class Degradation(Entry):
    """A family of image-to-image operators, indexed by an integer level; ``function`` is described by `register`."""

    @property
    def levels(self) -> range:
        """The levels that it knows, for example ``range(0, 51)``."""
        found: range = self.facts["levels"]
        return found

    @property
    def means(self) -> str:
        """What a level is, with its unit, like ``sigma = level / 10 pixels``; "" where that is not said."""
        return str(self.facts["means"])

    @property
    def unseen(self) -> bool:
        """Whether it is not trained on unless a config names it."""
        return bool(self.facts["unseen"])

    @property
    def description(self) -> str:
        """The first paragraph of the function's docstring."""
        return self.summary

    @cached_property
    def wants(self) -> frozenset[str]:
        """Which of the arguments ``keys`` and ``protocol`` the function takes."""
        return frozenset(inspect.signature(self.function).parameters) & OFFERED

    @property
    def random(self) -> bool:
        """Whether it draws random numbers itself; a composition does if one of its parts does."""
        parts = self.facts["parts"]
        return any(find(part).random for part in parts) if parts else "keys" in self.wants

    @property
    def code(self) -> str:
        """The entry's code in a digest; for a composition, its parts' code, too."""
        return " ".join((super().code, *(f"{part} {find(part).code}" for part in self.facts["parts"])))

    def notes(self) -> tuple[str, ...]:
        """Its levels, for ``fusiondistill list``."""
        seen = "" if self.unseen else ", one of the paper's four"
        means = f": {self.means}" if self.means else ""
        return (f"levels {self.levels[0]}..{self.levels[-1]}{means}{seen}",)


class Degradations(Registry[Degradation]):
    """The registry of degradations."""

    entry = Degradation

    def register(  # type: ignore[override]  # levels are no fact among others
        self,
        name: str,
        levels: range,
        *,
        means: str = "",
        unseen: bool = True,
        replace: bool = False,
        version: int = 1,
        source: str = "",
        parts: tuple[str, ...] = (),
    ) -> Callable[[Function], Function]:
        """Make a function a degradation, known everywhere by its name: training, evaluation, plots, command line.

        Args:
            name: lower-case letters, digits and underscores, a letter first.
            levels: its levels, a non-empty range of step 1; by convention a higher level of a new one is stronger.
            means: what a level is, with its unit, like ``sigma = level / 10 pixels``: tables and axes say it.
            unseen: keep it out of the defaults (a config can still name it for training).
            replace: allow the name to be taken already.
            version, source: see :meth:`fusiondistill.registry.Registry.register`.
            parts: the degradations that it calls; their versions count as its own.

        The function is called as ``function(images, levels)`` with uint8 [B,3,H,W] (0..255) and int64 [B] on the same
        device, and returns new uint8 [B,3,H,W] without writing to its input. If it has a parameter ``keys``, it is also
        given int64 [B], one random number per image that depends on (seed, name, image index) alone: see
        :mod:`fusiondistill.degradations.machinery.fields` for what to make of it. A parameter ``protocol`` is given
        ``"standard"`` or ``"paper"``. All other keyword-only parameters are keys that a config may give. `fusiondistill
        list` and the reference show the docstring.

        Raises:
            ValueError: the name or the levels are not usable, or there is no docstring.

        Example:
            A file ``mine.py``, which the config names under ``plugins: [mine.py]``; then ``degradations: [blur,
            darken]``:

            >>> import torch
            >>> from fusiondistill import DEGRADATIONS
            >>> @DEGRADATIONS.register("darken", range(0, 11), means="tenths of the light lost", replace=True)
            ... def darken(images, levels):
            ...     "Lose a tenth of the light per level."
            ...     return (images * (10 - levels.view(-1, 1, 1, 1)) // 10).to(torch.uint8)
        """
        if not isinstance(levels, range) or levels.step != 1 or len(levels) == 0:
            raise ValueError(f"levels of {name!r}: expected a non-empty range of step 1, got {levels!r}")
        facts = {"levels": levels, "means": means, "unseen": unseen, "parts": parts}
        return super().register(name, version=version, source=source, replace=replace, **facts)


DEGRADATIONS = Degradations(
    "degradation",
    __name__,
    first=PAPER_DEGRADATIONS,
    offered=OFFERED,
    takes=("images", "levels"),
    reserved=frozenset({"name", "as", "levels", "seed"}),
)
"""Every known degradation by name, the paper's four first."""

register = DEGRADATIONS.register
find = DEGRADATIONS.find


_HOMES = {
    "PROTOCOLS": "operator",
    "compose": "composition",
    "degrade": "operator",
    "degrade_grid": "grid",
    "in_turn": "composition",
    "reference_degrade": "reference",
}


__getattr__ = lazily(__name__, f"{__name__}.machinery", _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
