"""Finds what a CUDA graph cannot hold: values that are read back from the device, and shapes that depend on values."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["HostReads"]

_TORCH = str(Path(torch.__file__).parent)
_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_MASKED = ("aten.index.Tensor", "aten.index_put_.default", "aten.index_put.default")
"""They look for the places that a mask of bools names."""


class HostReads(TorchDispatchMode):
    """Sees every operation in its block, and notes those that make the host wait for the device.

    On a CPU nothing waits, but the operations are the same ones, so that a step can be judged without a GPU.

    Attributes:
        found: for each an operation with the line of Python that asked for it.

    Example:
        >>> with HostReads() as reads:
        ...     _ = torch.arange(9).max().item()
        >>> reads.found[0].split(" (")[0]
        'aten._local_scalar_dense.default'
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note it if it waits, and do it."""
        if _waits(function, args, kwargs or {}):
            self.found.append(f"{function} ({_place()})")
        return function(*args, **(kwargs or {}))


def _waits(function: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    if str(function) in _MASKED:
        return any(isinstance(one, torch.Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1])
    if _TAGS & set(function.tags):
        return not str(function).startswith("aten.index")
    if str(function).startswith(("aten._to_copy", "aten.copy")):
        devices = {one.device.type for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        wanted = kwargs.get("device")
        return len(devices | ({torch.device(wanted).type} if wanted is not None else set())) > 1
    return False


def _place() -> str:
    """The innermost line outside torch and this file."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(_TORCH) and frame.filename != __file__:
            return f"{Path(frame.filename).name}, line {frame.lineno}"
    return "in torch"
