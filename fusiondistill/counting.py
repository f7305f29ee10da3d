"""Numbers of things in words: one image, two images."""

from __future__ import annotations

import re

__all__ = ["counted"]


def counted(number: int, what: str, several: str | None = None) -> str:
    """A number of things in words.

    Args:
        number: how many.
        what: one of them, like ``training image``; its last word is what there are several of.
        several: two of them, where they are not called so by the usual rules.

    Example:
        >>> counted(1, "node"), counted(3000, "class"), counted(2, "copy is", "copies are")
        ('1 node', '3,000 classes', '2 copies are')
    """
    if number != 1:
        what = several or _ENDS.sub("e", re.sub(r"([^aeiou])y$", r"\1ie", what)) + "s"
    return f"{number:,} {what}"


_ENDS = re.compile(r"(?<=s)$|(?<=x)$|(?<=[^o]ch)$|(?<=sh)$")
