"""Colours and dashes of lines, in a palette that colour-blind readers can use (Okabe and Ito, 2008).

The page replaces each of these colours with a CSS variable of the same name, so that figures follow light and dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from fusiondistill.report.methods import Method, base_of, ours_of

__all__ = ["COLOURS", "LineStyle", "line_styles", "plain_styles"]

COLOURS = {
    "ink": "#1b1f24",
    "muted": "#68707a",
    "rule": "#d6dae0",
    "paper": "#fffffe",
    "grey": "#9a9a95",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "vermilion": "#d55e00",
    "sky": "#56b4e9",
    "blue": "#0072b2",
    "green": "#009e73",
}

Dashes = str | tuple[float, tuple[float, ...]]
_SOLID: Dashes = "-"
_DASHED: Dashes = (0, (5, 2))
_DOTTED: Dashes = (0, (1.2, 1.4))
_MIXED: Dashes = (0, (5, 1.5, 1.2, 1.5))
_SPARE = ("purple", "orange", "vermilion", "sky", "blue")


@dataclass(frozen=True)
class LineStyle:
    """A line's colour (a name in COLOURS), dashes as matplotlib has them, and width in points."""

    colour: str
    dashes: Dashes = _SOLID
    width: float = 1.3


def line_styles(methods: Sequence[Method]) -> dict[str, LineStyle]:
    """A style for each method, by its place among its kind: method id -> style.

    The base is grey and solid, ours are green and thick (the first of them solid), rows that are told the degradation
    are ink and dashed, networks for one degradation share a colour. The others change colour and dashes from one to
    the next.

    Args:
        methods: all of an experiment, in the order of the table, so that a method looks alike in each of its figures.
    """
    base, ours = base_of(methods), ours_of(methods)
    told = _styles(("ink", "grey"), (_DASHED, _DOTTED, _MIXED))
    green = _styles(("green", "blue"), (_SOLID, _DOTTED, _DASHED, _MIXED), 2.2)
    single = _styles(("purple",), (_SOLID, _DASHED, _DOTTED, _MIXED))
    others = _turning(_SPARE, (_MIXED, _DASHED, _DOTTED, _SOLID))
    styles = {}
    for method in methods:
        if method is base:
            styles[method.id] = LineStyle("grey")
        else:
            kind = told if method.told else single if method.own else green if method in ours else others
            styles[method.id] = next(kind)
    return styles


def _styles(colours: Sequence[str], dashes: Sequence[Dashes], width: float = 1.3) -> Iterator[LineStyle]:
    """All dashes of the first colour, then of the next; then all again with wider lines."""
    for more in count():
        yield from (LineStyle(colour, of, width + 0.9 * more) for colour in colours for of in dashes)


def _turning(colours: Sequence[str], dashes: Sequence[Dashes], width: float = 1.3) -> Iterator[LineStyle]:
    """Styles whose colour and dashes both change from one to the next; the numbers of both have no common divisor."""
    for i in count():
        rounds = i // (len(colours) * len(dashes))
        yield LineStyle(colours[i % len(colours)], dashes[i % len(dashes)], width + 0.9 * rounds)


def plain_styles(number: int) -> list[LineStyle]:
    """Styles for so many lines without their own meaning: colour and dashes change from one to the next."""
    turning = _turning(("blue", "vermilion", "orange", "sky", "purple"), (_SOLID, _DASHED, _DOTTED, _MIXED), 1.5)
    return [next(turning) for _ in range(number)]
