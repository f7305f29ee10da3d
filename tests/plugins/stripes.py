"""A data source without files: stripes of two directions, made up."""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field

from fusiondistill.sources import SOURCES, Contents, Files, Row


@SOURCES.register("stripes", flip=False)
def stripes(
    files: Files,
    split: str,
    *,
    side: Annotated[int, Field(ge=8, le=64, description="pixels a side")] = 16,
    count: Annotated[int, Field(ge=2, description="images of a split")] = 40,
) -> Contents:
    """Stripes across or down, of random widths and colours."""
    random = np.random.default_rng(0 if split == "train" else 1)

    def rows() -> Iterator[Row]:
        for number in range(count):
            wave = np.sin(np.arange(side) * random.uniform(0.5, 2)) > 0
            pattern = np.broadcast_to(wave[:, None] if number % 2 else wave[None], (side, side))
            image = np.where(pattern[..., None], random.integers(0, 256, 3), random.integers(0, 256, 3))
            yield Row(image.astype(np.uint8), number % 2, f"{split} image {number}")

    return Contents(["down", "across"], rows())
