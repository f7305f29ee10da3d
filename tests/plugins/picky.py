"""A data source whose parameters have types of its own: an enumeration and a tuple."""

from enum import Enum

import numpy as np

from fusiondistill.sources import SOURCES, Contents, Files, Row


class Tone(Enum):
    """How bright the images are."""

    DARK = "dark"
    BRIGHT = "bright"


@SOURCES.register("picky", flip=False)
def picky(files: Files, split: str, *, tone: Tone = Tone.DARK, sides: tuple[int, ...] = (8, 8)) -> Contents:
    """Flat images of a size and a tone, dark or bright."""
    value = 200 if tone is Tone.BRIGHT else 50
    rows = (Row(np.full((*sides, 3), value + i, np.uint8), i % 2, f"{split} image {i}") for i in range(40))
    return Contents(["even", "odd"], rows)
