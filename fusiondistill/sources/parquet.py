"""Images in Parquet files, laid out as Hugging Face does.

One struct column `{bytes, path}` (or a binary column) holds encoded images, one column the labels: integers, whose
class names come from the schema's `huggingface` metadata if it has them, or the classes' names themselves, which are
put in alphabetical order. Paths, or a README.md with `configs:`, say which files are the training, the validation and
the test split (:mod:`fusiondistill.data.hub`). A validation split stands in for a test split that is not there, unless
one is cut off (`data.test`). Files that list the same classes in another order are matched by the names; labels that
count the named classes from 1 are read so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fusiondistill.counting import counted
from fusiondistill.data import hub
from fusiondistill.data.arrangement import cut_advice
from fusiondistill.data.decoding import MAX_FILE_BYTES, BrokenImage
from fusiondistill.data.errors import DataError
from fusiondistill.data.hub_names import KEYWORDS
from fusiondistill.data.parquet_labels import (
    Classes,
    blaming,
    classes_of,
    columns_of,
    counted_from,
    labels_of,
    rows_at_a_time,
)
from fusiondistill.data.reading import Background, Bits, Broken, LabelColumn, Reader
from fusiondistill.data.source import Located
from fusiondistill.data.tables import SPLIT_COLUMNS
from fusiondistill.sources import SOURCES, Contents, Files, Root, Row

__all__ = ["parquet"]


def _locate(
    root: Root,
    config: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    label_column: str | None = None,
    cut: bool = False,
) -> dict[str, Path]:
    """As :func:`hub.locate`; where a test split is cut off, one without labels is left out."""
    found: Located = hub.locate(root, config, train_split, test_split, cut)
    tests = [name for name in found if name.startswith("test/")]
    if cut and tests and all(_unlabelled(found[name], label_column) for name in tests):
        note = f"{found[tests[0]].parent}: its test split has no labels and is not used"
        found = Located({name: path for name, path in found.items() if name not in tests}, [*found.notes, note])
    with contextlib.suppress(DataError):  # said where the labels are read
        lowest = counted_from(found, label_column)
        found.read_as = f"labels from {lowest}" if lowest else ""
    return found


def _unlabelled(path: Path, label_column: str | None) -> bool:
    """Whether no row of a file has a label: all are negative, empty or missing."""
    found = labels_of(path, label_column)
    return found.largest < 0 and not any(found.texts.keys() - {None, ""})


Config = Annotated[str | None, Field(description="which configuration to read, where the files have several")]
TrainSplit = Annotated[
    str | None, Field(description="the set's name of its training split; default: found by its name")
]
TestSplit = Annotated[str | None, Field(description="its name of its test split; default: test, else validation")]


@SOURCES.register(
    "parquet",
    locate=_locate,
    needs_root="a folder of train-*.parquet and test-*.parquet, or the files",
    by_split=True,
    version=2,
)
def parquet(
    files: Files,
    split: str,
    *,
    config: Config = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    label_column: LabelColumn = None,
    background: Background = "white",
    bits: Bits = None,
    broken: Broken = "error",
) -> Contents:
    """Parquet files in the Hugging Face image layout; labels are integers or the classes' names."""
    mine = [path for name, path in files.items() if name.startswith(f"{split}/")]
    if not mine:
        labels = ", ".join(getattr(files, "labels", ())) or ", ".join(map(str, files.values()))
        raise DataError(
            f"{next(iter(files.values())).parent}: no {split} split among {labels}; expected {split}-*.parquet, or a "
            f"file or folder with one of {', '.join(KEYWORDS.get(split, (split,)))} in its name. "
            f"Say what it is called, like data.{split}_split: NAME.{cut_advice(split)}"
        )
    classes, notes = classes_of(files, label_column), list[str]()
    notes += [f"{p}: the same classes in another order; they are matched by name" for p in mine if classes.order[p]]
    notes += _unread(mine)
    if classes.first:
        notes.append(f"{mine[0].parent}: labels count its {counted(len(classes.names), 'class')} from {classes.first}")

    def rows() -> Iterator[Row]:
        reader = Reader(background, bits, broken)
        for path in mine:
            yield from reader.rows(_items(path, classes, split, label_column))
        reader.finish(str(mine[0].parent), classes.names if split == "train" else ())
        notes.extend(reader.notes(split))

    return Contents(classes.names, rows(), notes)


def _items(
    path: Path, classes: Classes, split: str, label_column: str | None
) -> Iterator[tuple[Callable[[], bytes], int, str]]:
    """Of each row what gives the bytes of its image, its label, and where it is."""
    import pyarrow.parquet as pq

    with blaming(path), pq.ParquetFile(path) as file:
        image, encoded, label, _ = columns_of(path, file.schema_arrow, label_column)
        row, promised, step = 0, file.metadata.num_rows, rows_at_a_time(path, file.metadata)
        for batch in file.iter_batches(batch_size=step, columns=[encoded, label]):
            cells = batch.column(image) if encoded == image else batch.column(image).field("bytes")
            for number, cell in zip(batch.column(label).to_pylist(), cells, strict=True):
                where = f"{path}, row {row}"
                row += 1
                if number is None or number == "" or number != number:
                    yield partial(_unlabelled_row, where, label), len(classes.names), where
                    continue
                _check_label(number, where, split, len(classes.names))
                yield partial(_image_bytes, cell.as_py(), image, where), classes.label(path, number), where
        if row != promised:
            raise DataError(f"{path}: promises {counted(promised, 'row')} and holds {row:,}. Fetch it again.")


def _unread(mine: list[Path]) -> list[str]:
    """A note on columns that seem to name a split, which files and folders do."""
    import pyarrow.parquet as pq

    with blaming(mine[0]):
        found = [name for name in pq.read_schema(mine[0]).names if name.lower() in SPLIT_COLUMNS]
    return [f"{mine[0]}: column {name!r} is not read: splits are files, train-*.parquet and so on" for name in found]


def _unlabelled_row(where: str, label: str) -> bytes:
    raise BrokenImage(f"{where}: column {label!r} holds no label. Give it one, or delete the row.")


def _check_label(number: int | str, where: str, split: str, classes: int) -> None:
    if isinstance(number, int) and number < 0:
        raise DataError(
            f"{where}: the label {number} is outside the {counted(classes, 'class')}. Sets whose {split} split is not "
            f"labelled have such: name another, like data.{split}_split: validation.{cut_advice(split)}"
        )


def _image_bytes(data: bytes | None, image: str, where: str) -> bytes:
    if not data or len(data) > MAX_FILE_BYTES:
        raise BrokenImage(
            f"{where}: column {image!r} holds {len(data or b''):,} image bytes, allowed are 1 "
            f"to {MAX_FILE_BYTES:,}. The pixels themselves must be in the file, not a path."
        )
    return data
