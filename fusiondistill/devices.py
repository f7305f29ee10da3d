"""Devices by their names."""

from __future__ import annotations

import torch

__all__ = ["best_device", "device_of"]


def device_of(name: str) -> torch.device:
    """The device of this name; ValueError if it is not there."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None


def best_device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
