"""State dicts of the paper's released code (dineshdaultani/FusionDistill): its parameter names, and ours for them.

The released network is our CIFAR ResNet under other names: renamed weights give the same logits, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

__all__ = ["depth_of", "renamed"]

Value = TypeVar("Value")

_OURS = (
    (r"conv1\.", "conv."),
    (r"bn1\.", "norm."),
    (r"res([123])\.(\d+)\.conv([12])\.", r"stage\1.\2.conv\3."),
    (r"res([123])\.(\d+)\.bn([12])\.", r"stage\1.\2.norm\3."),
    (r"res([123])\.(\d+)\.ds\.([01])\.", r"stage\1.\2.shortcut.\3."),
    (r"fc\.", "head."),
)
"""Start of a released name -> ours."""
_WRAPPED = "module."
"""What ``DataParallel`` puts before every name."""


def renamed(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict under our names, where all of its names are those of the released network; others as they are.

    The released names may stand behind ``module.``, as ``torch.nn.DataParallel`` saves them.

    Example:
        >>> list(renamed({"conv1.weight": 1, "bn1.bias": 2, "res1.0.conv1.weight": 3, "fc.bias": 4}))
        ['conv.weight', 'norm.bias', 'stage1.0.conv1.weight', 'head.bias']
    """
    found = {_ours(key.removeprefix(_WRAPPED)): value for key, value in state.items()}
    released = any(re.match(rf"({_WRAPPED})?res1\.", key) for key in state)
    return {str(key): value for key, value in found.items()} if released and None not in found else dict(state)


def _ours(name: str) -> str | None:
    """Our name for one of the released network, None for any other."""
    for pattern, ours in _OURS:
        if match := re.match(pattern, name):
            return match.expand(ours) + name[match.end() :]
    return None


def depth_of(state: Mapping[str, object]) -> int | None:
    """The layers of the CIFAR ResNet that a state dict under our names belongs to; None: it is of no such network.

    Example:
        >>> depth_of({"stage1.0.conv1.weight": 1, "stage1.1.conv1.weight": 2, "head.bias": 3})
        14
    """
    blocks = {match[1] for key in state if (match := re.match(r"stage1\.(\d+)\.conv1\.weight$", key))}
    return 6 * len(blocks) + 2 if blocks and "head.bias" in state else None
