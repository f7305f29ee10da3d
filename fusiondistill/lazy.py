"""Names of a package that are imported on first use (PEP 562), so that importing the package itself stays cheap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazily"]


def lazily(module: str, under: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__``.

    Args:
        module: its dotted name, for the message.
        under: dotted name of the package that holds the homes.
        homes: name -> where it is defined, dotted, below ``under``.
    """

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(f"{under}.{homes[name]}"), name)

    return attribute
