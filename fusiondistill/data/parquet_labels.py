"""The columns of Parquet files with images, and the classes that their labels stand for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fusiondistill.counting import counted
from fusiondistill.data.class_names import in_order, order_of
from fusiondistill.data.decoding import what_it_is
from fusiondistill.data.errors import DataError, unknown
from fusiondistill.data.source import Files

__all__ = [
    "Classes", "Columns", "Labels", "blaming", "classes_of", "columns_of", "counted_from", "labels_of",
    "rows_at_a_time",
]  # fmt: skip

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_KINDS = (*LABEL_COLUMNS, "class", "category", "class_name", "label_name", "target", "species", "breed")
NAME_COLUMNS = (*_KINDS, "label_text")
"""Of texts that are class names."""
ID_COLUMNS = (*_KINDS, "class_id", "label_id", "category_id")
"""Of numbers, where there are several."""
ROWS_AT_A_TIME = 32
BYTES_AT_A_TIME = 256 * 2**20
MAX_ROWS = 50_000_000
MAX_CLASSES = 100_000


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Every error of pyarrow about the file becomes a DataError that names it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        with path.open("rb") as file:
            reason = what_it_is(file.read(200)) or error
        raise DataError(f"{path}: no intact Parquet file ({reason}). Fetch it again.") from error


def rows_at_a_time(path: Path, metadata: Any) -> int:
    """So few rows that they fit even if each were as large as its group: 1 KB on disk can repeat 32 MB for ever.

    Columns are not asked, which would say it more closely: pyarrow ends the process where what they say is damaged.
    """
    if metadata.num_rows > MAX_ROWS:
        raise DataError(f"{path}: promises {metadata.num_rows:,} rows, more than the limit of {MAX_ROWS:,}.")
    sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    return max(1, min(ROWS_AT_A_TIME, BYTES_AT_A_TIME // max([1, *sizes])))


def _column(path: Path, kind: str, found: list[str], preferred: tuple[str, ...], schema: Any) -> str:
    for name in preferred:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    columns = [f"{field.name} ({str(field.type)[:60]})" for field in schema]
    raise DataError(
        f"{path}: {'no' if not found else 'more than one'} {kind} column among {', '.join(columns)}; "
        f"expected one, or one called {', '.join(preferred)}. "
        + (
            _REMEDIES[kind]
            if not found
            else "Write data.label_column: NAME."
            if kind == LABEL
            else "Rename the column."
        )
    )


IMAGE, LABEL = "image (a struct with `bytes`)", "label (integers or texts)"
_REMEDIES = {
    IMAGE: "The files themselves must be in a column, not their paths or addresses.",
    LABEL: "Each image has one label: an integer or a text.",
    "text label": "Each image has one label.",
}
"""Kind of column that is not there -> what to do."""


class Columns(NamedTuple):
    """The columns of a file: the one with the images, its path to their bytes, the one with the labels."""

    image: str
    encoded: str
    label: str
    texts: bool
    """Whether the labels are the names of the classes."""


def columns_of(path: Path, schema: Any, label_column: str | None = None) -> Columns:
    """The columns of images and labels in a file's schema.

    Args:
        label_column: the one with the labels; None: told by its name and type.

    Raises:
        DataError: there are none, or it cannot be told which they are; the message lists all columns.
    """
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def is_image(kind: Any) -> bool:
        return types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_binary(kind.field("bytes").type)

    structs = [field.name for field in schema if is_image(field.type)]
    plain = [] if structs else [field.name for field in schema if is_binary(field.type)]

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return bool(types.is_string(kind) or types.is_large_string(kind))

    image = _column(path, IMAGE, structs or plain, IMAGE_COLUMNS, schema)
    encoded = f"{image}.bytes" if structs else image
    numbers = [field.name for field in schema if types.is_integer(field.type)]
    names = [field.name for field in schema if is_text(field.type)]
    flags = [field.name for field in schema if types.is_boolean(field.type)]
    floats = [field.name for field in schema if types.is_floating(field.type)]  # of whole numbers, beside empty cells
    numbers += [*flags, *floats] if label_column or not (numbers or names) else []
    if label_column is not None:
        if label_column not in [*numbers, *names]:
            raise unknown("column of integers or texts (data.label_column)", label_column, [*numbers, *names],
                          f" The columns of {path} are {', '.join(schema.names)}.")  # fmt: skip
        return Columns(image, encoded, label_column, label_column in names)
    if not set(LABEL_COLUMNS) & set(numbers):
        called = [name for name in NAME_COLUMNS if name in names] or (names if not numbers else [])
        if called:
            return Columns(image, encoded, _column(path, "text label", called, NAME_COLUMNS, schema), True)
    return Columns(image, encoded, _column(path, LABEL, numbers, ID_COLUMNS, schema), False)


def _declared_classes(path: Path, schema: Any, label: str) -> list[str] | None:
    """Class names from the `huggingface` metadata; None where there are none."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        names = json.loads(text)["info"]["features"][label].get("names")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: the class names in its `huggingface` metadata are no list of names.")
    return names


class Classes(NamedTuple):
    """The class names of the whole source, and what the labels of each file stand for."""

    names: list[str]
    order: Mapping[Path, Sequence[int] | None]
    """The label that each of a file's own labels stands for; None: the same."""
    first: int = 0
    """What the label of the first class is."""
    places: Mapping[str, int] = {}
    """Class name -> its label, where the labels are names."""

    def label(self, path: Path, given: Any) -> int:
        """The label of a value of the label column."""
        if isinstance(given, str):
            return self.places[given]
        number, order = int(given) - self.first, self.order[path]
        return order[number] if order and 0 <= number < len(order) else number


class Labels:
    """What the label column of one file holds."""

    def __init__(self, path: Path, label_column: str | None = None) -> None:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        self.path, self.smallest, self.largest, self.texts = path, 0, -1, Counter[str]()
        with blaming(path), pq.ParquetFile(path) as file:
            columns = columns_of(path, file.schema_arrow, label_column)
            self.are_texts = columns.texts
            self.declared = None if columns.texts else _declared_classes(path, file.schema_arrow, columns.label)
            rows_at_a_time(path, file.metadata)
            lows, highs = [0], [-1]
            for batch in file.iter_batches(batch_size=65_536, columns=[columns.label]):
                if columns.texts:
                    for one in pc.value_counts(batch.column(0)).to_pylist():
                        self.texts[one["values"]] += one["counts"]
                    if len(self.texts) > MAX_CLASSES:
                        raise DataError(f"{path}: column {columns.label!r} has more than {MAX_CLASSES:,} classes.")
                elif (ends := pc.min_max(_whole(batch.column(0), path, columns.label)).as_py())["min"] is not None:
                    lows.append(int(ends["min"]))
                    highs.append(int(ends["max"]))
            self.smallest, self.largest = min(lows[1:], default=0), max(highs)


def _whole(values: Any, path: Path, label: str) -> Any:
    """Labels as integers, of floating-point numbers, too; NaN is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(values.type):
        return values
    known = values.drop_null().filter(pc.invert(pc.is_nan(values.drop_null())))
    if not pc.all(pc.equal(known, pc.floor(known)), min_count=0).as_py() or (
        len(known) and abs(pc.max(known).as_py()) > 2**53
    ):
        raise DataError(f"{path}: column {label!r} holds numbers that are not whole. {_REMEDIES[LABEL]}")
    return known.cast(pa.int64())


@lru_cache(maxsize=256)
def _read(path: Path, size: int, changed: int, label_column: str | None) -> Labels:
    return Labels(path, label_column)


def labels_of(path: Path, label_column: str | None = None) -> Labels:
    """The :class:`Labels` of a file, read once while it does not change."""
    with blaming(path):
        status = path.stat()
    return _read(path, status.st_size, status.st_mtime_ns, label_column)


def counted_from(files: Files, label_column: str | None = None) -> int:
    """The smallest label of a set whose labels are integers without names; 0 for all others."""
    smallest = []
    for path in files.values():
        found = labels_of(path, label_column)
        if found.are_texts or found.declared is not None or found.smallest < 1 <= found.largest + 1:
            return 0
        smallest += [found.smallest] if found.largest >= 0 else []
    return min(smallest, default=0)


def classes_of(files: Files, label_column: str | None = None) -> Classes:
    """Declared class names, those of the training split first; the names that the labels are, in alphabetical order; or
    the numbers from the smallest label of any file, if that is above 0, to the largest."""
    names = sorted(files, key=lambda name: not name.startswith("train/"))
    found = {files[name]: labels_of(files[name], label_column) for name in names}
    first = next(iter(found.values()))
    for path, one in found.items():
        if one.are_texts != first.are_texts:
            text, number = (path, first.path) if one.are_texts else (first.path, path)
            raise DataError(
                f"{text}: its labels are texts, those of {number} are numbers. Files of one set must agree."
            )
        if (one.declared is None) != (first.declared is None):
            lacking, having = (path, first.path) if one.declared is None else (first.path, path)
            raise DataError(f"{lacking}: declares no class names, and {having} does. Files of one set must agree.")
    if first.are_texts:
        texts = _texts({name: found[files[name]].texts for name in names}, first.path)
        return Classes(texts, dict.fromkeys(found), places={text: place for place, text in enumerate(texts)})
    order = {p: order_of(one.declared or [], first.declared or [], str(p), str(first.path)) for p, one in found.items()}
    largest, smallest = max(one.largest for one in found.values()), min(one.smallest for one in found.values())
    if first.declared is None and largest >= MAX_CLASSES:
        raise DataError(f"{first.path.parent}: a label of {largest}: more than {MAX_CLASSES:,} classes are refused.")
    if first.declared is None:
        lowest = counted_from(files, label_column)
        return Classes([str(number) for number in range(lowest, largest + 1)], order, lowest)
    return Classes(first.declared, order, int(smallest >= 1 and largest == len(first.declared)))


def _texts(counts: Mapping[str, Counter[str]], first: Path) -> list[str]:
    """The classes, of the texts that files by name have: those of the training split, if there is one.

    Raises:
        DataError: another split has a class that the training split lacks.
    """
    trained = {text for name, one in counts.items() if name.startswith("train/") for text in one}
    known = trained or {text for one in counts.values() for text in one}
    for name, one in counts.items():
        if other := sorted(text for text in one if text is not None and text not in known):
            raise DataError(
                f"{first.parent}: {name} has images of {counted(len(other), 'class')} that the training split lacks: "
                f"{', '.join(other[:20])}. Correct these labels, or leave those images out."
            )
    return in_order(text for text in known if text is not None)
