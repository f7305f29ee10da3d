"""What a source of images is given, and what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Contents", "Files", "Root", "Row"]

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
