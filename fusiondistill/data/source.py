"""The types that a data source takes and returns."""

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
"""Where a source's files are: a folder or file, for `parquet` also several files; None: the source's own place."""


class Row(NamedTuple):
    """One image, uint8 [H, W, 3], its label, and its file and row for messages."""

    image: np.ndarray
    label: int
    where: str


class Contents(NamedTuple):
    """One split of a source: its class names, and its images one by one, each read when it is asked for."""

    classes: list[str]
    rows: Iterable[Row]
