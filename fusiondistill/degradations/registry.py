"""Which degradations there are: a name, a range of levels and a function each."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

__all__ = ["DEGRADATIONS", "PAPER_DEGRADATIONS", "Degradation", "Function", "find", "register"]

Function = Callable[..., torch.Tensor]

PAPER_DEGRADATIONS = ("jpeg", "blur", "noise", "saltpepper")
"""The four that the paper trains and tests on: the default wherever degradations are not named."""

_registered: dict[str, Degradation] = {}

DEGRADATIONS: Mapping[str, Degradation] = MappingProxyType(_registered)
"""Every known degradation by name, read-only; :func:`register` adds to it."""


@dataclass(frozen=True)
class Degradation:
    """A family of image-to-image operators, indexed by an integer level.

    Attributes:
        name: what configs, tables and plots call it.
        levels: the levels it knows, for example ``range(0, 51)``.
        function: see :func:`register`.
        description: the first paragraph of the function's docstring.
        unseen: not trained on unless a config names it.
        wants: which of the optional arguments ``keys`` and ``protocol`` the function takes.
    """

    name: str
    levels: range
    function: Function
    description: str
    unseen: bool
    wants: frozenset[str]


def register(name: str, levels: range, *, unseen: bool = True, replace: bool = False) -> Callable[[Function], Function]:
    """Make a function a degradation, known everywhere by its name: training, evaluation, plots, command line.

    Args:
        name: lower-case letters, digits and underscores.
        levels: its levels, a non-empty range of step 1; by convention a higher level of a new one is a stronger one.
        unseen: keep it out of the defaults (a config can still name it for training).
        replace: allow the name to be taken already.

    The function is called as ``function(images, levels)`` with uint8 [B,3,H,W] (0..255) and int64 [B] on the same
    device, and returns new uint8 [B,3,H,W] without writing to its input. If it has a parameter ``keys``, it is also
    given int64 [B], one random number per image that depends on (seed, name, image index) alone: see
    :mod:`fusiondistill.degradations.fields` for what to make of it. A parameter ``protocol`` is given
    ``"standard"`` or ``"paper"``. The docstring is what people read about it.

    Raises:
        ValueError: the name or the levels are not usable, or there is no docstring.

    Example:
        >>> @register("darken", range(0, 11), replace=True)
        ... def darken(images, levels):
        ...     "Lose a tenth of the light per level."
        ...     return (images * (10 - levels.view(-1, 1, 1, 1)) // 10).to(torch.uint8)
    """
    if not name.isidentifier() or name != name.lower():
        raise ValueError(f"a degradation's name is lower-case letters, digits and underscores, not {name!r}")
    if not isinstance(levels, range) or levels.step != 1 or len(levels) == 0:
        raise ValueError(f"levels of {name!r}: expected a non-empty range of step 1, got {levels!r}")
    if name in _registered and not replace:
        raise ValueError(f"there already is a degradation {name!r}; register(..., replace=True) takes its place")

    def add(function: Function) -> Function:
        description = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
        if not description:
            raise ValueError(f"the function of degradation {name!r} needs a docstring")
        wants = frozenset(inspect.signature(function).parameters) & {"keys", "protocol"}
        _registered[name] = Degradation(name, levels, function, description, unseen, wants)
        return function

    return add


def find(name: str) -> Degradation:
    """The degradation of that name.

    Raises:
        ValueError: there is none; the message has the closest names and the whole list.
    """
    try:
        return _registered[name]
    except (KeyError, TypeError):
        close = difflib.get_close_matches(str(name), _registered, n=2)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"unknown degradation {name!r}.{hint} Known: {', '.join(_registered)}") from None
