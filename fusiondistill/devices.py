"""Devices by their names."""

from __future__ import annotations

import torch

__all__ = ["device_of"]


def device_of(name: str) -> torch.device:
    """The device of this name; ValueError if it is not there."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
