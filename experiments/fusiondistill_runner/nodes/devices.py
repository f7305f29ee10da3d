"""Which device a Ray worker computes on."""

from __future__ import annotations

from typing import Any

__all__ = ["plain_device"]


def plain_device() -> Any:
    """The device of a task or trial: a GPU if Ray gave it one."""
    import ray
    import torch

    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
