"""Reads a table of labels, and finds the image that each of its rows names."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fusiondistill.data.decoding import SUFFIXES, read_bounded
from fusiondistill.data.errors import DataError, unknown
from fusiondistill.data.hub_names import SPLIT_WORDS

__all__ = ["TABLES", "Images", "Item", "Table", "read_table", "tables_in"]

TABLES = (".csv", ".tsv")
IMAGE_COLUMNS = (
    "image", "img", "file", "filename", "file_name", "path", "filepath", "image_path", "image_name", "image_id",
    "img_name", "images", "photo", "name", "id",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "class_name", "classname", "category", "kind", "target", "species", "breed",
    "diagnosis", "y", "class_id", "label_id", "category_id", "cls",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "phase")
SPLIT_FLAGS = {"is_valid": "validation", "is_val": "validation", "is_validation": "validation", "is_test": "test"}
"""Columns of yes and no -> the split of the rows with yes; the others are for training."""
FLAGS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
ONE_OF = "the one that holds a 1"
"""What the column of labels is called where each class has its own column."""
_WHOLE = re.compile(r"\d+(\.0*)?")
LOOKED_AT = 200
"""Rows by which the column of the images is told."""
MOST_ROWS = 10_000_000


def tables_in(folder: Path) -> list[Path]:
    """The tables in a folder, by their names."""
    return [p for p in sorted(folder.iterdir()) if p.suffix.lower() in TABLES and p.name[0] != "."]


class Images:
    """The images below a folder, found by what tables call them: a path, a name, with or without suffix or folders, in
    any case where the exact name is not there."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder of images.")
        self.folder, self.files = folder, dict[str, Path]()
        self._called: dict[str, list[str]] = {}
        seen = set[str]()
        for at, inside, names in os.walk(folder, followlinks=True):
            inside[:] = sorted(name for name in inside if not name.startswith(".") and name != "__MACOSX")
            if (real := os.path.realpath(at)) in seen:  # a link leads back
                inside.clear()
                continue
            seen.add(real)
            for name in sorted(names):
                if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                    path = Path(at, name)
                    self.files[path.relative_to(folder).as_posix()] = path
        for key in self.files:
            place = PurePosixPath(key)
            for called in {key, place.with_suffix("").as_posix(), place.name, place.stem}:
                self._called.setdefault(called.lower(), []).append(key)

    def find(self, given: str) -> list[str]:
        """The images, by their paths below the folder, that a text may mean: none, one, or several of one name.

        A path whose beginning is not there may lead to the folder itself, not to another folder in it.
        """
        parts = [part for part in given.strip().replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            rest, before = "/".join(parts[start:]), parts[:start]
            if rest in self.files:
                return [rest]
            found = self._called.get(rest.lower(), [])
            if found := [key for key in found if self._agree(before, key.split("/")[: start - len(parts)])]:
                return found
        return []

    def _agree(self, given: list[str], folders: list[str]) -> bool:
        """Whether the folders that a text names may be those above an image."""
        shared = min(len(given), len(folders))
        ends = [[name.lower() for name in names[len(names) - shared :]] for names in (given, folders)]
        return ends[0] == ends[1] or given[-1].lower() == self.folder.name.lower()


class Item(NamedTuple):
    """A row of a table: an image with its label."""

    image: str
    """Its path below the folder of the images."""
    label: str
    split: str
    """train, validation, test, or "" for another word."""


@dataclass
class Table:
    """What a table says of the images."""

    items: list[Item] = field(default_factory=list)
    columns: Mapping[str, str] = field(default_factory=dict)
    """What holds the image, the label, the split -> the column's name."""
    missing: list[tuple[str, str]] = field(default_factory=list)
    """(where, label) of rows whose image is not there."""
    unlabelled: list[str] = field(default_factory=list)
    """Where rows have no label."""
    other_splits: Counter[str] = field(default_factory=Counter)
    """Words of the split's column that name no split."""
    repeated: int = 0
    """Rows that say of an image what an earlier one has said."""
    unused: Sequence[str] = ()
    """Columns that are not read."""
    named: set[str] = field(default_factory=set)
    """The images that it names."""


def read_table(path: Path, images: Images, wanted: Mapping[str, str | None]) -> Table:
    """Read a table.

    Args:
        path: a .csv or .tsv file; of a .csv the separator is told by its first line.
        images: where the images are.
        wanted: ``image``, ``label``, ``split`` -> the name of the column; None: told by its name or what it holds.

    Raises:
        DataError: it is no table, a column cannot be told, or an image has two labels or may be one of several.
    """
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path}: is empty. Expected a line with the names of the columns, then a line for each image.")
    headed = not any(images.find(cell) for cell in rows[0])
    names = [cell.strip() for cell in rows[0]] if headed else [str(n) for n in range(1, len(rows[0]) + 1)]
    body = rows[1:] if headed else rows
    if not body:
        raise DataError(f"{path}: has no line after the names of its columns.")
    at = _columns(path, names, body, images, wanted)
    unused = [] if ONE_OF in names else [name for n, name in enumerate(names) if n not in at.values()]
    table = Table(columns={what: names[column] for what, column in at.items()}, unused=unused)
    _shorten(body, at["label"])
    seen: dict[str, Item] = {}
    for number, row in enumerate(body, start=2 if headed else 1):
        _take(table, seen, row, at, images, f"{path}, line {number}")
    return table


def _shorten(body: list[list[str]], column: int) -> None:
    """Labels that are whole numbers, as pandas writes them where a cell is empty (1.0), in the short form (1)."""
    rows = [row for row in body if column < len(row) and row[column].strip()]
    if all(_WHOLE.fullmatch(row[column].strip()) for row in rows):
        for row in rows:
            row[column] = row[column].strip().partition(".")[0]


def _take(
    table: Table, seen: dict[str, Item], row: Sequence[str], at: Mapping[str, int], images: Images, where: str
) -> None:
    """Put one row of a table where it belongs."""
    cells = {what: row[column].strip() if column < len(row) else "" for what, column in at.items()}
    named, label, found = cells["image"], cells["label"], images.find(cells["image"])
    if len(found) > 1:
        raise DataError(f"{where}: {named!r} may be {found[0]} or {found[1]} below {images.folder}. Write the path.")
    table.named.update(found)
    if label.lower() in ("", "nan"):
        table.unlabelled.append(f"{where} ({named})")
        return
    if not found:
        table.missing.append((f"{where} ({named})", label))
        return
    split = _split_of(cells["split"]) if "split" in cells else "train"
    item = Item(found[0], label, split)
    if (before := seen.setdefault(item.image, item)) is not item:
        if before != item:
            raise DataError(
                f"{where}: {named} is {label!r}{_in(split)} here, and {before.label!r}{_in(before.split)} in an "
                "earlier line. An image has one label and one split."
            )
        table.repeated += 1
    elif split:
        table.items.append(item)
    else:
        table.other_splits[cells["split"]] += 1


def _in(split: str) -> str:
    return f" ({split})" if split else ""


def _split_of(word: str) -> str:
    word = word.lower()
    return next((split for split, known in SPLIT_WORDS.items() if word in known), "")


def _rows(path: Path) -> list[list[str]]:
    """The lines of a table, cut into cells; empty lines left out."""
    data = read_bounded(path)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Excel saves "Unicode text"
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise DataError(f"{path}: is no text. Save the table as CSV.")
    first = text.partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" and "\t" in first else max(",;\t|", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(row)]
    except csv.Error as error:
        raise DataError(f"{path}: is no table of texts ({error}).") from error
    if len(rows) > MOST_ROWS:
        raise DataError(f"{path}: has more than the limit of {MOST_ROWS:,} lines.")
    return rows


def _columns(
    path: Path, names: list[str], body: list[list[str]], images: Images, wanted: Mapping[str, str | None]
) -> dict[str, int]:
    """The columns of image, label and, where there is one, split: what -> position."""
    at: dict[str, int] = {}
    for what, name in wanted.items():
        if name is not None:
            if name not in names:
                raise unknown(f"column (data.{what}_column)", name, names, f" These are the columns of {path}.")
            at[what] = names.index(name)
    plain = [name.lower().replace(" ", "_") for name in names]
    if "split" not in at and (found := _called(plain, SPLIT_COLUMNS, at.values())) is not None:
        words = {row[found].strip() for row in body if found < len(row)}
        if any(_split_of(word) for word in words):
            at["split"] = found
    if "split" not in at and (found := _called(plain, SPLIT_FLAGS, at.values())) is not None:
        _write_out(body, found, SPLIT_FLAGS[plain[found]], at)
    if "image" not in at:
        rest = [column for column in range(len(names)) if column not in at.values()]
        sample = body[:LOOKED_AT]
        score = {c: sum(len(row) > c and bool(images.find(row[c])) for row in sample) for c in rest}
        known = _called(plain, IMAGE_COLUMNS, at.values())
        best = known if known is not None and score[known] else max(score, key=lambda c: (score[c], -c), default=None)
        found = best if best is not None and score[best] else known
        if found is None:
            raise DataError(_which("image", path, names, f"no cell names an image below {images.folder}"))
        at["image"] = found
    if "label" not in at:
        rest = [column for column in range(len(names)) if column not in at.values()]
        found = _called(plain, LABEL_COLUMNS, at.values())
        if found is None and (marked := _one_of(body, rest)):
            for row, column in zip(body, marked, strict=True):
                row.append(names[column])
            names.append(ONE_OF)
            found = len(names) - 1
        if found is None and len(rest) != 1:
            left = " or ".join(names[c] for c in rest)
            raise DataError(_which("label", path, names, f"it may be {left}" if left else "no column is left"))
        at["label"] = rest[0] if found is None else found
    return at


def _write_out(body: list[list[str]], column: int, split: str, at: dict[str, int]) -> None:
    """Write names of splits into a column of yes and no; one that holds anything else is no column of splits."""
    said = [FLAGS.get(row[column].strip().lower()) if column < len(row) else None for row in body]
    if None not in said:
        at["split"] = column
        for row, flag in zip(body, said, strict=True):
            row[column] = split if flag else "train"


def _one_of(body: list[list[str]], columns: list[int]) -> list[int]:
    """Of each row the column that holds a 1, where all others of these hold a 0; empty where it is not so."""
    marked = []
    for row in body:
        ones = [column for column in columns if column < len(row) and row[column].strip() in ("1", "1.0")]
        zeros = sum(column < len(row) and row[column].strip() in ("0", "0.0") for column in columns)
        if len(ones) != 1 or zeros != len(columns) - 1 or len(columns) < 2:
            return []
        marked += ones
    return marked


def _called(names: list[str], known: Iterable[str], taken: Iterable[int]) -> int | None:
    free = {name: column for column, name in reversed(list(enumerate(names))) if column not in set(taken)}
    return next((free[name] for name in known if name in free), None)


def _which(what: str, path: Path, names: list[str], why: str) -> str:
    return (
        f"{path}: which column holds the {what}: {why}. Its columns are {', '.join(names)}: write "
        f"data.{what}_column: NAME."
    )
