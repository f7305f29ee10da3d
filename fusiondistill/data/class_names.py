"""Compares two lists of class names: the same, the same in another order, or which differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fusiondistill.counting import counted
from fusiondistill.data.errors import DataError
from fusiondistill.data.names import escaped, same_name

__all__ = ["difference", "in_order", "order_of", "permutation"]

SHOWN = 10


def permutation(given: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """For each of the given classes its position in ours; None where these are other classes, or one is there twice.

    Example:
        >>> permutation(["dog", "cat"], ["cat", "dog"]), permutation(["dog"], ["cat"])
        ([1, 0], None)
    """
    places = {same_name(escaped(name)): place for place, name in enumerate(ours)}
    wanted = [same_name(escaped(name)) for name in given]
    if len(places) < len(ours) or len(set(wanted)) < len(wanted) or places.keys() != set(wanted):
        return None
    return [places[name] for name in wanted]


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in alphabetical order; by their value, where all of them are numbers.

    Example:
        >>> in_order(["10", "9"]), in_order(["b10", "b9"])
        (['9', '10'], ['b10', 'b9'])
    """
    listed = sorted(set(names))
    return sorted(listed, key=int) if all(name.isascii() and name.isdigit() for name in listed) else listed


def difference(given: Sequence[str], ours: Sequence[str]) -> str:
    """What sets two lists of classes apart, in words: those that only one has, or the first that is elsewhere."""
    mine, theirs = [escaped(n) for n in ours], [escaped(n) for n in given]
    only_given = [name for name in theirs if name not in set(mine)]
    only_ours = [name for name in mine if name not in set(theirs)]
    if not only_given and not only_ours:
        at = next((i for i, (a, b) in enumerate(zip(theirs, mine, strict=False)) if a != b), None)
        if at is None:
            return f"{len(theirs)} names instead of {len(mine)}"
        return f"the same classes in another order: class {at} is {theirs[at]!r} instead of {mine[at]!r}"
    told = []
    for what, names in (("has", only_given), ("lacks", only_ours)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            told.append(f"{what} {', '.join(map(repr, names[:SHOWN]))}{more}")
    counts = "" if len(theirs) == len(mine) else f"{counted(len(theirs), 'class')}, not {len(mine)}: "
    return f"{counts}it " + " and ".join(told)


def order_of(given: Sequence[str], ours: Sequence[str], who: str, other: str) -> list[int] | None:
    """The label in ours for each of the given ones; None where they are alike.

    Raises:
        DataError: these are other classes; the message names them.
    """
    if list(given) == list(ours):
        return None
    found = permutation(given, ours)
    if found is None:
        raise DataError(f"{who}: declares other classes than {other}: {difference(given, ours)}. They must agree.")
    return found
