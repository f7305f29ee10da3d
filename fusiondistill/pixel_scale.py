"""Mean and deviation of channels on the scale 0..255 of pixels."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["in_words", "of_unit"]


def of_unit(values: Iterable[float]) -> tuple[float, ...]:
    """Numbers of the scale 0..1 on the scale 0..255, rounded to 1e-6."""
    return tuple(round(255 * value, 6) for value in values)


def in_words(values: Iterable[float]) -> str:
    """The numbers as a config has them.

    Example:
        >>> in_words((127.5, 0.0))
        '[127.5, 0]'
    """
    return f"[{', '.join(f'{value:g}' for value in values)}]"
