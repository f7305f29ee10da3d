"""What a source of images is: two functions and a few facts.

A source never writes, never caches and never checks what all sources have in common (labels inside the classes, one
image size): `cache.py` does that for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Contents", "Files", "Root", "Row", "Source"]

Files = Mapping[str, Path]
"""Name inside the source -> file. The names are the same on every machine, the paths need not be."""

Root = str | Path | list[str] | list[Path] | None
"""Where a source lies: a folder or file, for `parquet` also several files, or None for a source's own place."""


class Row(NamedTuple):
    """One image: uint8 [H, W, 3], its label, and where it comes from, for messages."""

    image: np.ndarray
    label: int
    where: str


class Contents(NamedTuple):
    """One split of a source: its class names, and its images one by one (read as they are asked for)."""

    classes: list[str]
    rows: Iterable[Row]


@dataclass(frozen=True)
class Source:
    """One kind of data set.

    Attributes:
        name: what users write.
        summary: one line for help texts.
        locate: root -> the files that make up the source, all splits. Decodes nothing; downloads what is missing where
            there is a public archive; raises DataError when nothing is found.
        read: (files, split) -> Contents.
        flip: may its images be mirrored in training?
        mean, std: the published figures per channel, 0..255 scale; None: computed on the training split.
        version: raised whenever `read` would return other pixels, labels or classes than before for the same files.
    """

    name: str
    summary: str
    locate: Callable[[Root], dict[str, Path]]
    read: Callable[[Files, str], Contents]
    flip: bool = True
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    version: int = 1
