"""Rendered figures, each with its own file name."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusiondistill.report import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Pictures", "seeds_line", "seeds_text"]

_BLANK = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>',
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="),
)
"""SVG and PNG of one white pixel."""


@dataclass(frozen=True)
class Picture:
    """A rendered figure: file name without suffix, title, caption, and the text for screen readers."""

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes
    png: bytes
    wide: bool = False
    """Whether it takes the whole width of the page."""


@dataclass
class Pictures:
    """Draws the report's figures; keeps file names apart."""

    used: set[str] = field(default_factory=set)

    def picture(
        self, name: str, title: str, caption: str, alt: str, figure: Callable[[], Figure], *, wide: bool = False
    ) -> Picture:
        """Draw and render a figure under the next free name; blank where ``FUSIONDISTILL_PICTURES`` is 0.

        Drawing takes most of the time of a report, and a report a third of that of a very small run.
        """
        stem = plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "figure"
        count = 1
        while stem in self.used:
            count += 1
            stem = f"{plain}-{count}"
        self.used.add(stem)
        if os.environ.get("FUSIONDISTILL_PICTURES") == "0":
            return Picture(stem, title, caption, alt, *_BLANK, wide)
        with drawing.settings():
            return Picture(stem, title, caption, alt, *drawing.rendered(figure()), wide)


def seeds_line(
    label: str, style: drawing.LineStyle, x: NDArray[np.float64], values: NDArray[np.float64]
) -> drawing.Series:
    """A line of means over seeds with a band from the lowest to the highest; values: [seeds, x], NaN where missing."""
    if len(values) == 1:
        return drawing.Series(label, style, x, values[0])
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    mean = np.where(counts, np.where(known, values, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)
    low = np.where(counts, np.where(known, values, np.inf).min(axis=0), np.nan)
    high = np.where(counts, np.where(known, values, -np.inf).max(axis=0), np.nan)
    return drawing.Series(label, style, x, mean, low, high)


def seeds_text(counts: Iterable[int]) -> str:
    """How many seeds the lines have, in words."""
    drawn = sorted(set(counts))
    if drawn == [1]:
        return "One seed."
    number = " to ".join(str(count) for count in dict.fromkeys((drawn[0], drawn[-1])))
    return f"n = {number} seeds: lines are their means, bands reach from the lowest to the highest."
