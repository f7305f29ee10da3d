"""Names of files and classes as text for every file format and terminal."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable

__all__ = ["escaped", "is_text", "look_alike", "same_name"]


def escaped(name: str, lines: bool = False) -> str:
    r"""The name with the bytes that are not UTF-8, and control characters, written as ``\xe9``.

    Python holds such bytes of a file's name as lone surrogates, which no file can store and no terminal shows.

    Args:
        name: any text.
        lines: leave line ends as they are.

    Example:
        >>> escaped("caf\udce9"), escaped("café")
        ('caf\\xe9', 'café')
    """
    try:
        text = os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte, as a hostile file may have
        text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    if text.isprintable():
        return text
    kept = "\n" if lines else ""
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" and c not in kept else c for c in text)


def is_text(name: str) -> bool:
    r"""Whether a name is Unicode text, without a lone surrogate: half of a character, or a byte that is not UTF-8.

    Example:
        >>> is_text("café"), is_text("caf\udce9")
        (True, False)
    """
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def look_alike(names: Iterable[str]) -> str:
    """Names that differ in case and in what stands between words alone, in a sentence; "" where there are none.

    Example:
        >>> look_alike(["Dog", "cat", "dog"])
        'classes whose names are nearly the same: Dog, dog'
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault("".join(c for c in same_name(name).casefold() if c.isalnum()) or name, []).append(name)
    told = "; ".join(", ".join(several) for several in alike.values() if len(several) > 1)
    return told and f"classes whose names are nearly the same: {told}"


def same_name(name: str) -> str:
    """What two spellings of one name share: systems store an accented letter as one character or as two."""
    return unicodedata.normalize("NFC", name)
