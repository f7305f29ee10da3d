"""How lines are told apart: a palette that colour-blind readers can use (Okabe and Ito, 2008), and line styles on top.

The page replaces each of these colours with a CSS variable of the same name, so that figures follow light and dark.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusiondistill.report.words import EXPERT, in_order

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

_SOLID, _DASHED, _DOTTED, _MIXED = "-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5))
Dashes = str | tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class LineStyle:
    """A line's colour (a name in COLOURS), dashes as matplotlib has them, and width in points."""

    colour: str
    dashes: Dashes = _SOLID
    width: float = 1.3


_METHODS = {
    "base": LineStyle("grey"),
    "oracle": LineStyle("ink", _DASHED),
    "ensemble": LineStyle("purple", _MIXED),
    "scratch": LineStyle("orange", _MIXED),
    "vanilla": LineStyle("vermilion", _DASHED),
    "modelsoups": LineStyle("sky", _DOTTED, 1.8),
    "modelsoups-told": LineStyle("sky"),
    "fusing": LineStyle("blue", _DASHED),
    "fusiondistill": LineStyle("green", _SOLID, 2.2),
    "fusiondistill-searched": LineStyle("green", _DOTTED, 2.2),
}
_SPARE = ("blue", "vermilion", "orange", "sky", "ink")
_STAGES = {"distill": "fusiondistill", "distill-searched": "fusiondistill-searched"}


def line_styles(names: list[str]) -> dict[str, LineStyle]:
    """A style for each method or training stage; experts share a colour, unknown names take what is left in turn."""
    experts = [name for name in in_order(names) if name.startswith(EXPERT)]
    dashes: list[Dashes] = [_SOLID, _DASHED, _DOTTED, _MIXED]
    styles: dict[str, LineStyle] = {}
    taken = {(style.colour, style.dashes) for style in _METHODS.values()}
    free = [LineStyle(colour, of) for of in dashes for colour in _SPARE if (colour, of) not in taken]
    spare = 0
    for name in names:
        if name in experts:
            styles[name] = LineStyle("purple", dashes[experts.index(name) % 4])
        elif (known := _STAGES.get(name, name)) in _METHODS:
            styles[name] = _METHODS[known]
        else:
            styles[name] = free[spare % len(free)]
            spare += 1
    return styles


def plain_styles(count: int) -> list[LineStyle]:
    """Styles for lines without a meaning of their own: colour and dashes both change from one to the next."""
    dashes: list[Dashes] = [_SOLID, _DASHED, _DOTTED, _MIXED]
    return [LineStyle((*_SPARE, "purple")[i % (len(_SPARE) + 1)], dashes[i % 4], 1.5) for i in range(count)]
