"""Several degradations one after the other, registered as one of its own."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch

from fusiondistill import randomness
from fusiondistill.degradations.registry import Function, find, register

__all__ = ["compose"]


def compose(name: str, parts: Mapping[str, Sequence[int]], *, unseen: bool = True, replace: bool = False) -> Function:
    """Register the degradations ``parts``, applied in that order, as one of that name.

    Args:
        name: as in :func:`register`.
        parts: two or more registered names, each with its level at level 0, 1, 2, ... of the new degradation; all
            equally many.
        unseen, replace: as in :func:`register`.

    Returns:
        The registered function. Each part has noise of its own, even if it is there under a name of its own too.

    Raises:
        ValueError: fewer than two parts, an unknown one, a level out of range, unequal numbers of levels.

    Example:
        >>> function = compose("soft_and_noisy", {"blur": [0, 5, 10], "noise": [0, 10, 20]}, replace=True)
    """
    lengths = {len(levels) for levels in parts.values()}
    if len(parts) < 2 or len(lengths) != 1:
        raise ValueError(f"compose {name!r}: expected two or more degradations with equally many levels each")
    for part, levels in parts.items():
        known = find(part).levels
        wrong = [level for level in levels if level not in known]
        if wrong:
            raise ValueError(f"compose {name!r}: level {wrong[0]} of {part!r} is out of range {known[0]}..{known[-1]}")
    table = {part: tuple(levels) for part, levels in parts.items()}

    def composed(images: torch.Tensor, levels: torch.Tensor, *, keys: torch.Tensor, protocol: str) -> torch.Tensor:
        for part, own in table.items():
            degradation = find(part)
            arguments = {"keys": randomness.bits(randomness.key("compose", part), keys), "protocol": protocol}
            wanted = {key: value for key, value in arguments.items() if key in degradation.wants}
            images = degradation.function(images, _on_device(own, images.device)[levels], **wanted)
        return images

    composed.__doc__ = f"In turn: {', '.join(parts)}."
    return register(name, range(lengths.pop()), unseen=unseen, replace=replace)(composed)


@functools.cache
def _on_device(levels: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(levels).to(device, non_blocking=True)


compose(
    "blur_noise_jpeg",
    {
        "blur": range(0, 21, 2),
        "noise": range(0, 31, 3),
        "jpeg": (101, *range(90, 0, -9)),
    },
)
