"""Images in Parquet files, laid out as Hugging Face does.

One struct column `{bytes, path}` (or a binary column) holds encoded images, one integer column the labels; class names
come from the schema's `huggingface` metadata if it has them. Paths, or a README.md with `configs:`, say which files are
the training and the test split (:mod:`fusiondistill.data.hub`); a validation split stands in for a test split that is
not there. Files that list the same classes in another order are matched by the names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from fusiondistill.data import hub
from fusiondistill.data.class_names import order_of
from fusiondistill.data.decoding import MAX_FILE_BYTES, BrokenImage, what_it_is
from fusiondistill.data.errors import DataError
from fusiondistill.data.hub_names import KEYWORDS
from fusiondistill.data.reading import Background, Bits, Broken, Reader
from fusiondistill.sources import SOURCES, Contents, Files, Row

__all__ = ["parquet"]

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
ROWS_AT_A_TIME = 32
BYTES_AT_A_TIME = 256 * 2**20
MAX_ROWS = 50_000_000
MAX_CLASSES = 100_000


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Whatever pyarrow finds wrong with the file becomes a DataError that names it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        with path.open("rb") as file:
            reason = what_it_is(file.read(200)) or error
        raise DataError(f"{path}: no intact Parquet file ({reason}). Fetch it again.") from error


def _rows_at_a_time(path: Path, metadata: Any) -> int:
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
        f"expected one, or one called {' or '.join(preferred)}."
    )


class _Columns(NamedTuple):
    """The columns of a file: the one with the images, its path to their bytes, the one with the labels."""

    image: str
    encoded: str
    label: str


def _columns(path: Path, schema: Any) -> _Columns:
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def is_image(kind: Any) -> bool:
        return types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_binary(kind.field("bytes").type)

    structs = [field.name for field in schema if is_image(field.type)]
    plain = [] if structs else [field.name for field in schema if is_binary(field.type)]
    labels = [field.name for field in schema if types.is_integer(field.type)]
    image = _column(path, "image (a struct with `bytes`)", structs or plain, IMAGE_COLUMNS, schema)
    label = _column(path, "integer label", labels, LABEL_COLUMNS, schema)
    return _Columns(image, f"{image}.bytes" if structs else image, label)


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


class _Classes(NamedTuple):
    """The class names of the whole source, and per file the label that each of its own labels stands for."""

    names: list[str]
    order: dict[Path, Sequence[int] | None]


def _classes(files: Files) -> _Classes:
    """Declared class names, those of the training split first, or "0", "1", ... up to the largest label of any file."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    declared: dict[Path, list[str] | None] = {}
    largest = -1
    for name in sorted(files, key=lambda name: not name.startswith("train/")):
        path = files[name]
        with _blaming(path), pq.ParquetFile(path) as file:
            label = _columns(path, file.schema_arrow).label
            declared[path] = _declared_classes(path, file.schema_arrow, label)
            _rows_at_a_time(path, file.metadata)
            if declared[path] is None:
                for batch in file.iter_batches(batch_size=65_536, columns=[label]):
                    top = pc.max(batch.column(0)).as_py()
                    largest = max(largest, -1 if top is None else top)
    first = next(iter(declared))
    order = dict[Path, Sequence[int] | None]()
    for path, names in declared.items():
        if (names is None) != (declared[first] is None):
            lacking, having = (path, first) if names is None else (first, path)
            raise DataError(f"{lacking}: declares no class names, and {having} does. Files of one set must agree.")
        order[path] = order_of(names or [], declared[first] or [], str(path), str(first))
    if largest >= MAX_CLASSES:
        raise DataError(f"{first.parent}: a label of {largest}: more than {MAX_CLASSES:,} classes are refused.")
    return _Classes(declared[first] or [str(number) for number in range(largest + 1)], order)


Config = Annotated[str | None, Field(description="which configuration, where the files are those of several")]
TrainSplit = Annotated[str | None, Field(description="what the set calls its training split; default: by its name")]
TestSplit = Annotated[str | None, Field(description="what it calls its test split; default: test, else validation")]


@SOURCES.register(
    "parquet", locate=hub.locate, needs_root="a folder of train-*.parquet and test-*.parquet, or the files", version=2
)
def parquet(
    files: Files,
    split: str,
    *,
    config: Config = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    background: Background = "white",
    bits: Bits = None,
    broken: Broken = "error",
) -> Contents:
    """Parquet files in the Hugging Face image layout."""
    mine = [path for name, path in files.items() if name.startswith(f"{split}/")]
    if not mine:
        labels = ", ".join(getattr(files, "labels", ())) or ", ".join(map(str, files.values()))
        raise DataError(
            f"{next(iter(files.values())).parent}: no {split} split among {labels}; expected {split}-*.parquet, or a "
            f"file or folder with one of {', '.join(KEYWORDS[split])} in its name. "
            f"Say what it is called, like data.{split}_split: NAME."
        )
    classes, notes = _classes(files), list[str]()
    notes += [f"{p}: the same classes in another order; they are matched by name" for p in mine if classes.order[p]]

    def rows() -> Iterator[Row]:
        reader = Reader(background, bits, broken)
        for path in mine:
            yield from _rows(path, reader, classes, split)
        reader.finish(str(mine[0].parent))
        notes.extend(reader.notes(split))

    return Contents(classes.names, rows(), notes)


def _rows(path: Path, reader: Reader, classes: _Classes, split: str) -> Iterator[Row]:
    import pyarrow.parquet as pq

    order = classes.order[path]
    with _blaming(path), pq.ParquetFile(path) as file:
        image, encoded, label = _columns(path, file.schema_arrow)
        row, promised, step = 0, file.metadata.num_rows, _rows_at_a_time(path, file.metadata)
        for batch in file.iter_batches(batch_size=step, columns=[encoded, label]):
            cells = batch.column(image) if encoded == image else batch.column(image).field("bytes")
            for number, cell in zip(batch.column(label).to_pylist(), cells, strict=True):
                where = f"{path}, row {row}"
                row += 1
                _check_label(number, label, where, split, len(classes.names))
                number = order[number] if order and number < len(order) else number
                found = reader.row(partial(_image_bytes, cell.as_py(), image, where), number, where)
                if found is not None:
                    yield found
        if row != promised:
            raise DataError(f"{path}: promises {promised:,} rows and holds {row:,}. Fetch it again.")


def _check_label(number: int | None, label: str, where: str, split: str, classes: int) -> None:
    if number is None:
        raise DataError(f"{where}: column {label!r} holds no label.")
    if number < 0:
        raise DataError(
            f"{where}: the label {number} is outside the {classes} classes. Sets whose {split} split is not labelled "
            f"have such: name another, like data.{split}_split: validation."
        )


def _image_bytes(data: bytes | None, image: str, where: str) -> bytes:
    if not data or len(data) > MAX_FILE_BYTES:
        raise BrokenImage(
            f"{where}: column {image!r} holds {len(data or b''):,} image bytes, allowed are 1 "
            f"to {MAX_FILE_BYTES:,}. The pixels themselves must be in the file, not a path."
        )
    return data
