"""The types that a data source takes and returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fusiondistill.data.names import escaped

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Contents", "Files", "Located", "Place", "Root", "Row"]

Files = Mapping[str, Path]
"""Name inside the source -> file. The names are the same on every machine, the paths need not be."""


class Located(dict[str, Path]):
    """Files, with what users should know of how they were found: a sentence each, the same for all splits.

    Attributes:
        read_as: how the same content was read in an earlier version in another way, for the digest; mostly "".
        lacking: whether a list of the files names some that are not there, or without a label, which are left out.
    """

    read_as = ""
    lacking = False

    def __init__(self, files: Mapping[str, Path], notes: Sequence[str] = ()) -> None:
        super().__init__(files)
        self.notes = tuple(escaped(note) for note in notes)


Root = str | Path | list[str] | list[Path] | None
"""Where a source's files are: a folder or file, for `parquet` also several files, for `table` the folder of the images
and the file of their labels; None: the source's own place."""

Place = Root | tuple[str, ...]
"""The same, as a config holds it."""


class Row(NamedTuple):
    """One image, uint8 [H, W, 3], its label, and its file and row for messages."""

    image: np.ndarray
    label: int
    where: str


class Contents(NamedTuple):
    """One split of a source: its class names, and its images one by one, each read when it is asked for.

    ``notes`` are facts that users should know, a sentence each; they are read after the last row.
    """

    classes: list[str]
    rows: Iterable[Row]
    notes: Sequence[str] = ()
