"""The errors about the user's data and their names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fusiondistill.data.names import escaped

__all__ = ["BrokenImage", "DataError", "MixedSizes", "WrongValue", "unknown"]


class DataError(ValueError):
    """Something is wrong with the user's data: the message names the file and row or member, and says what to do."""

    def __init__(self, message: object = "") -> None:
        super().__init__(escaped(str(message), lines=True))


class WrongValue(DataError):
    """The value of a key of the config does not go with the images; ``location`` leads to the key."""

    def __init__(self, location: Iterable[str | int], message: str) -> None:
        super().__init__(message)
        self.location = tuple(location)


class MixedSizes(DataError):
    """Images of one split have several sizes, and no size was given."""


class BrokenImage(DataError):
    """The bytes of one image cannot be decoded; ``data.broken: skip`` leaves it out."""


def unknown(kind: str, given: object, known: Iterable[str], advice: str = "") -> DataError:
    """The error for a misspelt name: close matches first, then the whole list.

    Example: ``raise unknown("data set", "cifar-10", SOURCES)``.
    """
    known = list(known)
    plain = {_plain(name): name for name in known}
    wanted = _plain(str(given))
    matches = [wanted] if wanted in plain else difflib.get_close_matches(wanted, plain, n=3, cutoff=0.5)
    hint = "; did you mean " + " or ".join(repr(plain[match]) for match in matches) + "?" if matches else "."
    return DataError(f"there is no {kind} {given!r}{hint} Known: {', '.join(known)}.{advice}")


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
