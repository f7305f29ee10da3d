"""Several degradations one after the other, as one degradation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch

from fusiondistill import randomness
from fusiondistill.degradations import DEGRADATIONS, Function, find

__all__ = ["compose", "in_turn"]


def compose(name: str, parts: Mapping[str, Sequence[int]], *, unseen: bool = True, replace: bool = False) -> Function:
    """Register the degradations ``parts``, applied in that order, as one of that name.

    Args:
        name: as in :func:`register`.
        parts: as in :func:`in_turn`.
        unseen, replace: as in :func:`register`.

    Returns:
        The registered function.

    Raises:
        ValueError: as :func:`in_turn` and :func:`register`.

    Example:
        >>> function = compose("soft_and_noisy", {"blur": [0, 5, 10], "noise": [0, 10, 20]}, replace=True)
    """
    try:
        function = in_turn(parts)
    except ValueError as error:
        raise ValueError(f"compose {name!r}: {error}") from None
    levels = range(len(next(iter(parts.values()))))
    return DEGRADATIONS.register(name, levels, unseen=unseen, replace=replace, parts=tuple(parts))(function)


def in_turn(parts: Mapping[str, Sequence[int]]) -> Function:
    """A function that applies several degradations one after the other.

    Args:
        parts: two or more registered names, each with its level at level 0, 1, 2, ... of the composition; all
            equally many.

    Returns:
        A function ``(images, levels, *, keys, protocol)``. Each part has its own noise, also where it is a
        degradation of the run under its own name. Parts have the defaults of their parameters.

    Raises:
        ValueError: fewer than two parts, an unknown one, a level out of range, unequal numbers of levels.
    """
    lengths = {len(levels) for levels in parts.values()}
    if len(parts) < 2 or len(lengths) != 1:
        raise ValueError("expected two or more degradations with equally many levels each")
    for part, levels in parts.items():
        known = find(part).levels
        find(part).checked({})  # raises where a parameter has no default
        wrong = [level for level in levels if level not in known]
        if wrong:
            raise ValueError(f"level {wrong[0]} of {part!r} is out of range {known[0]}..{known[-1]}")
    table = {part: tuple(levels) for part, levels in parts.items()}

    def composed(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor, protocol: str) -> torch.Tensor:
        for part, own in table.items():
            degradation = find(part)
            arguments = {"keys": randomness.bits(randomness.key("compose", part), keys), "protocol": protocol}
            wanted = {key: value for key, value in arguments.items() if key in degradation.wants}
            images = degradation.function(images, _on_device(own, images.device)[levels], **wanted)
        return images

    composed.__doc__ = f"In turn: {', '.join(parts)}."
    return composed


@functools.cache
def _on_device(levels: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(levels).to(device, non_blocking=True)
