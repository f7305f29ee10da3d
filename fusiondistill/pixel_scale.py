"""Mean and deviation of channels on the scale 0..255 of pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

__all__ = ["in_words", "of_pixels", "of_unit"]

Numbers = Sequence[float] | None


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


def of_pixels(
    mean: Numbers, std: Numbers, say: Callable[[str], object] = str, where: str = ""
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std on the scale 0..255; values below 1 are read as those of 0..1.

    Args:
        mean, std: per channel; None stays None.
        say: takes what a user should know, a sentence each.
        where: stands before their names in messages, like ``data.``

    Raises:
        ValueError: one of them is on the scale 0..1, the other is not.

    Example:
        >>> of_pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        ((127.5, 127.5, 127.5), (63.75, 63.75, 63.75))
    """
    given = {name: tuple(values) for name, values in (("mean", mean), ("std", std)) if values is not None}
    unit = [name for name, values in given.items() if all(abs(value) < 1 for value in values)]
    if "std" in given and "std" not in unit:
        if given["std"] == (1.0, 1.0, 1.0):
            say(f"{where}std of 1 is on the scale 0..255; for images of 0..1 without normalisation write std: 255")
        if "mean" in unit and any(given["mean"]):
            raise ValueError(
                f"{where}mean {in_words(given['mean'])} looks like the scale 0..1, {where}std "
                f"{in_words(given['std'])} like 0..255: give both on the scale 0..255"
            )
        unit = []
    elif "std" in unit and "mean" in given and "mean" not in unit:
        raise ValueError(
            f"{where}std {in_words(given['std'])} is on the scale 0..1, {where}mean {in_words(given['mean'])} is not: "
            "give both on one scale"
        )
    for name in unit:
        if any(given[name]):
            told, given[name] = given[name], of_unit(given[name])
            say(f"{where}{name} is read as on the scale 0..1: {in_words(told)} is {in_words(given[name])} of 255")
    return given.get("mean"), given.get("std")
