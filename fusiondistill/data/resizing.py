"""Brings images to one size, with antialiasing: Pillow's BICUBIC, whose filter grows with the reduction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from fusiondistill.counting import counted
from fusiondistill.data.arrangement import Fit
from fusiondistill.data.source import Row

__all__ = ["Resizer", "listed", "resized"]

SHOWN = 5


def resized(image: np.ndarray, size: tuple[int, int], fit: Fit = "crop") -> np.ndarray:
    """One image in another size, in one step of resampling.

    Args:
        image: uint8 [H, W, 3], RGB 0..255.
        size: (height, width) in pixels.
        fit: ``crop`` takes the largest centred part that has the shape of the target, ``pad`` lays the whole image
            into the middle of a black one, ``stretch`` takes the whole image to the target's shape.

    Returns:
        uint8 [height, width, 3]; an image that has the size already is returned as it is.
    """
    from PIL import Image

    (height, width), (own_height, own_width) = size, image.shape[:2]
    if (own_height, own_width) == (height, width):
        return image
    picture, bicubic = Image.fromarray(image), Image.Resampling.BICUBIC
    if fit == "stretch":
        return np.asarray(picture.resize((width, height), bicubic))
    across, down = width / own_width, height / own_height
    if fit == "crop":
        kept_width, kept_height = width / max(across, down), height / max(across, down)
        left, top = (own_width - kept_width) / 2, (own_height - kept_height) / 2
        box = (max(0.0, left), max(0.0, top), min(own_width, left + kept_width), min(own_height, top + kept_height))
        return np.asarray(picture.resize((width, height), bicubic, box=box))
    inner_width = max(1, round(own_width * min(across, down)))
    inner_height = max(1, round(own_height * min(across, down)))
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    canvas[top : top + inner_height, left : left + inner_width] = np.asarray(
        picture.resize((inner_width, inner_height), bicubic)
    )
    return canvas


class Resizer:
    """Resizes the rows of a split one by one, and counts the sizes that it met."""

    def __init__(self, size: tuple[int, int], fit: Fit) -> None:
        self.size, self.fit, self.met = size, fit, Counter[tuple[int, int]]()

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows with images of the size."""
        for row in rows:
            height, width = row.image.shape[:2]
            self.met[height, width] += 1
            yield row._replace(image=resized(row.image, self.size, self.fit))

    def notes(self, split: str) -> list[str]:
        """What was done, in a sentence; none where all images had the size already."""
        if not self.met or set(self.met) == {self.size}:
            return []
        smaller = sum(n for (h, w), n in self.met.items() if h < self.size[0] or w < self.size[1])
        enlarged = f"; {smaller:,} of them {'is' if smaller == 1 else 'are'} smaller than that" if smaller else ""
        sides = [side for size in self.met for side in size]
        several = f"{len(self.met):,} sizes (sides of {min(sides):,} to {max(sides):,} pixels)"
        of = several if len(self.met) > 1 else f"size {listed(self.met)}"
        shape = f"{self.size[1]}x{self.size[0]} ({self.fit})"
        return [f"{split}: {counted(sum(self.met.values()), 'image')} of {of} resized to {shape}{enlarged}"]


def listed(sizes: Counter[tuple[int, int]]) -> str:
    """Sizes, (height, width), in words: the most frequent ones with their counts, and how many others there are."""
    if len(sizes) == 1:
        return "x".join(map(str, next(iter(sizes))[::-1]))
    common = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count:,} of {width}x{height}" for (height, width), count in common[:SHOWN]]
    if rest := common[SHOWN:]:
        told.append(f"{sum(count for _, count in rest):,} of {counted(len(rest), 'other size')}")
    return ", ".join(told)
