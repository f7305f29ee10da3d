"""Images in a folder, and a table that names the class of each: `data: {name: table, images: DIR, labels: FILE.csv}`.

The table is a .csv or .tsv file with a column of the images' file names and one of their labels, which are found by
their names and by what they hold, or named (`data.image_column`, `data.label_column`). Names may lack their suffix or
their folders. A column of splits says which images are for training, validation and test: `data.split_column`, or one
called split, set, subset, partition or phase, or is_valid or is_test with yes and no. Without it `data.test` cuts one
off. Classes are the labels in alphabetical order, numbers by their value (1.0 is 1); where they are numbers and a
`classes.txt` lies beside the table, it names them (`NUMBER NAME` in a line, or a name in a line, in order). Without a
column of labels the label is the name of the column that holds a 1, where all others hold a 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fusiondistill.counting import counted
from fusiondistill.data.arrangement import cut_advice
from fusiondistill.data.class_names import in_order
from fusiondistill.data.decoding import read_bounded
from fusiondistill.data.errors import DataError
from fusiondistill.data.reading import Background, Bits, Broken, LabelColumn, Reader
from fusiondistill.data.source import Located
from fusiondistill.data.tables import Images, Item, Table, read_table, tables_in
from fusiondistill.sources import SOURCES, Contents, Files, Root, Row

__all__ = ["table"]

NEEDS = "images: DIR and labels: FILE.csv (or root: a folder that holds both)"
_COLUMNS = ("image", "label", "split")
LABELS, NAMES = "labels", "classes.txt"
"""What the source calls its table, and the names of the classes."""
SHOWN = 12


class _Labelled(Located):
    """The files, with the label of each image by its name in the source."""

    labels: Mapping[str, str] = {}


def _places(root: Root) -> tuple[Path, Path]:
    """The folder of the images and the table."""
    given = [Path(one).expanduser() for one in (root if isinstance(root, list | tuple) else [root or "."])]
    if len(given) == 2:
        folder, file = given
    elif given[0].is_dir():
        found = tables_in(given[0])
        if len(found) != 1:
            told = ", ".join(path.name for path in found[:SHOWN]) or "none"
            several = counted(len(found), "table")
            raise DataError(f"{given[0]}: holds {several} ({told}), expected one. Write labels: FILE.csv.")
        folder, file = given[0], found[0]
    else:
        folder, file = given[0].parent, given[0]
    if not file.is_file():
        raise DataError(f"{file}: there is no such table of labels.")
    return folder, file


def _locate(
    root: Root,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    broken: Broken = "error",
    cut: bool = False,
) -> dict[str, Path]:
    folder, file = _places(root)
    images = Images(folder)
    found = read_table(file, images, {"image": image_column, "label": label_column, "split": split_column})
    items, notes = _by_split(found, file, cut)
    notes += _left_out(found, file, images, broken)
    _check_classes(found, items, file)
    files = {f"{one.split}/{one.image}": images.files[one.image] for one in items}
    labels = {f"{one.split}/{one.image}": one.label for one in items}
    names = file.parent / NAMES
    if names.is_file() and all(text.isascii() and text.isdigit() for text in labels.values()):
        files[NAMES] = names
    listed = _Labelled({**dict(sorted(files.items())), LABELS: file}, notes)
    listed.labels, listed.lacking = labels, bool(found.missing or found.unlabelled)
    return listed


def _by_split(found: Table, file: Path, cut: bool) -> tuple[list[Item], list[str]]:
    """The rows, a validation split in the place of a test split that is not there, and notes."""
    told = ", ".join(f"of the {what} {found.columns[what]!r}" for what in _COLUMNS if what in found.columns)
    unused = f"; not read: {', '.join(map(repr, found.unused[:SHOWN]))}" if found.unused else ""
    notes, there = [f"{file}: column {told}{unused}"], {one.split for one in found.items}
    if not found.items:
        lost = f"{found.missing[0][0]}: there is no such image. " if found.missing else ""
        raise DataError(f"{file}: names no image that is there. {lost}Give the folder that holds them as images.")
    if "train" not in there:
        raise DataError(f"{file}: column {found.columns['split']!r} says of no row that it is for training.")
    if "test" not in there and "validation" in there and not cut:
        notes.append(f"{file}: there is no test split; validation is used as the test split")
        return [one._replace(split="test") if one.split == "validation" else one for one in found.items], notes
    return found.items, notes


def _left_out(found: Table, file: Path, images: Images, broken: Broken) -> list[str]:
    """Notes on what the table and the folder do not share; an error where images or labels are missing."""
    notes = []
    told = (
        (f"of {file.name} whose image is not below {images.folder}", [where for where, _ in found.missing]),
        (f"of {file.name} without a label", found.unlabelled),
    )
    for what, where in told:
        if not where:
            continue
        more = f" and {len(where) - SHOWN:,} more" if len(where) > SHOWN else ""
        text = f"{file}: {counted(len(where), 'row')} {what}: {', '.join(where[:SHOWN])}{more}"
        if broken == "error":
            raise DataError(f"{text}. With data.broken: skip the run goes on without them.")
        notes.append(f"{text}; left out")
    if unnamed := len(images.files.keys() - found.named):
        notes.append(f"{images.folder}: left out: {counted(unnamed, 'image')} that {file.name} does not name")
    if found.other_splits:
        words = ", ".join(f"{word!r} ({n:,})" for word, n in found.other_splits.most_common(SHOWN))
        notes.append(f"{file}: rows of other splits than train, validation and test are left out: {words}")
    if found.repeated:
        notes.append(f"{file}: {counted(found.repeated, 'row repeats', 'rows repeat')} an earlier one")
    return notes


def _check_classes(found: Table, items: list[Item], file: Path) -> None:
    """Raise DataError where a class has no training image."""
    trained = {one.label for one in items if one.split == "train"}
    for what, labels in (
        ("whose images are all missing", {label for _, label in found.missing}),
        ("that have no training image", {one.label for one in items}),
    ):
        if lost := in_order(labels - trained):
            raise DataError(
                f"{file}: {len(lost)} classes {what}: {', '.join(lost[:SHOWN])}. Fetch the images, or delete the rows."
            )


def _class_names(labels: list[str], file: Path | None) -> list[str]:
    """The names of classes that are numbers, by a file of names; else the labels themselves."""
    if file is None:
        return labels
    lines = [line.split(None, 1) for line in read_bounded(file).decode("utf-8", "replace").splitlines() if line.strip()]
    numbered = {line[0]: line[1].strip() for line in lines if len(line) == 2 and line[0].isdigit()}
    if len(numbered) == len(lines) and numbered.keys() >= set(labels):
        return [numbered[label] for label in labels]
    first = min(map(int, labels))
    names = [" ".join(line) for line in lines]
    if first in (0, 1) and all(int(label) - first < len(names) for label in labels):
        return [names[int(label) - first] for label in labels]
    raise DataError(
        f"{file}: names {counted(len(lines), 'class')}, not the {len(labels)} of the table. Mend or delete it."
    )


ImageColumn = Annotated[str | None, Field(description="the column of the file names; default: by its name and content")]
SplitColumn = Annotated[str | None, Field(description="the column of train, validation, test; default: by its name")]


@SOURCES.register("table", locate=_locate, needs_root=NEEDS, by_split=True, version=2)
def table(
    files: Files,
    split: str,
    *,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    background: Background = "white",
    bits: Bits = None,
    broken: Broken = "error",
) -> Contents:
    """Images in a folder, and a table (CSV) of their labels."""
    labels: Mapping[str, str] = getattr(files, "labels", {})
    mine = [name for name in labels if name.startswith(f"{split}/")]
    if not mine:
        raise DataError(
            f"{files[LABELS]}: names no image of the {split} split. Say so in a column of splits.{cut_advice(split)}"
        )
    known = in_order(text for name, text in labels.items() if name.startswith("train/"))
    place, notes = {text: number for number, text in enumerate(known)}, list[str]()

    def rows() -> Iterator[Row]:
        reader = Reader(background, bits, broken)
        yield from reader.rows(
            (partial(read_bounded, files[name]), place[labels[name]], str(files[name])) for name in mine
        )
        reader.finish(str(files[LABELS]), known if split == "train" else ())
        notes.extend(reader.notes(split))

    return Contents(_class_names(known, files.get(NAMES)), rows(), notes)
