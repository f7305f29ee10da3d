"""Images in Parquet files, laid out as Hugging Face does.

One struct column `{bytes, path}` (or a binary column) holds encoded images, one column the labels: integers, whose
class names come from the schema's `huggingface` metadata if it has them, or the classes' names themselves, which are
put in alphabetical order. Paths, or a README.md with `configs:`, say which files are the training, the validation and
the test split (:mod:`fusiondistill.data.hub`). A validation split stands in for a test split that is not there, unless
one is cut off (`data.test`). Files that list the same classes in another order are matched by the names; labels that
count the named classes from 1 are read so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from fusiondistill.data import hub
from fusiondistill.data.class_names import in_order, order_of
from fusiondistill.data.decoding import MAX_FILE_BYTES, BrokenImage, what_it_is
from fusiondistill.data.errors import DataError
from fusiondistill.data.hub_names import KEYWORDS
from fusiondistill.data.reading import Background, Bits, Broken, Reader
from fusiondistill.data.source import Located
from fusiondistill.sources import SOURCES, Contents, Files, Root, Row

__all__ = ["parquet"]

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
NAME_COLUMNS = (*LABEL_COLUMNS, "class", "category", "class_name", "label_name", "target", "species", "breed")
"""Of texts that are class names."""
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
    texts: bool
    """Whether the labels are the names of the classes."""


def _columns(path: Path, schema: Any) -> _Columns:
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

    image = _column(path, "image (a struct with `bytes`)", structs or plain, IMAGE_COLUMNS, schema)
    encoded = f"{image}.bytes" if structs else image
    numbers = [field.name for field in schema if types.is_integer(field.type)]
    names = [field.name for field in schema if is_text(field.type)]
    if not set(LABEL_COLUMNS) & set(numbers):
        called = [name for name in NAME_COLUMNS if name in names] or (names if not numbers else [])
        if called:
            return _Columns(image, encoded, _column(path, "text label", called, NAME_COLUMNS, schema), True)
    return _Columns(image, encoded, _column(path, "integer label", numbers, LABEL_COLUMNS, schema), False)


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
    """The class names of the whole source, and what the labels of each file stand for."""

    names: list[str]
    order: Mapping[Path, Sequence[int] | None]
    """The label that each of a file's own labels stands for; None: the same."""
    first: int = 0
    """What the label of the first class is: 0, or 1."""
    places: Mapping[str, int] = {}
    """Class name -> its label, where the labels are names."""

    def label(self, path: Path, given: Any) -> int:
        """The label of a value of the label column."""
        if isinstance(given, str):
            return self.places[given]
        number, order = int(given) - self.first, self.order[path]
        return order[number] if order and 0 <= number < len(order) else number


class _Labels:
    """What the label column of one file holds, read once."""

    def __init__(self, path: Path) -> None:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        self.path, self.smallest, self.largest, self.texts = path, 0, -1, Counter[str]()
        with _blaming(path), pq.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow)
            self.are_texts = columns.texts
            self.declared = None if columns.texts else _declared_classes(path, file.schema_arrow, columns.label)
            _rows_at_a_time(path, file.metadata)
            lows, highs = [0], [-1]
            for batch in file.iter_batches(batch_size=65_536, columns=[columns.label]):
                if columns.texts:
                    for one in pc.value_counts(batch.column(0)).to_pylist():
                        self.texts[one["values"]] += one["counts"]
                elif (ends := pc.min_max(batch.column(0)).as_py())["min"] is not None:
                    lows.append(ends["min"])
                    highs.append(ends["max"])
            self.smallest, self.largest = min(lows[1:], default=0), max(highs)


def _classes(files: Files) -> _Classes:
    """Declared class names, those of the training split first; the names that the labels are, in alphabetical order; or
    "0", "1", ... up to the largest label of any file."""
    names = sorted(files, key=lambda name: not name.startswith("train/"))
    found = {files[name]: _Labels(files[name]) for name in names}
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
        return _Classes(texts, dict.fromkeys(found), places={text: place for place, text in enumerate(texts)})
    order = {p: order_of(one.declared or [], first.declared or [], str(p), str(first.path)) for p, one in found.items()}
    largest, smallest = max(one.largest for one in found.values()), min(one.smallest for one in found.values())
    if first.declared is None and largest >= MAX_CLASSES:
        raise DataError(f"{first.path.parent}: a label of {largest}: more than {MAX_CLASSES:,} classes are refused.")
    if first.declared is None:
        return _Classes([str(number) for number in range(largest + 1)], order)
    return _Classes(first.declared, order, int(smallest >= 1 and largest == len(first.declared)))


def _texts(counts: Mapping[str, Counter[str]], first: Path) -> list[str]:
    """The classes, of the texts that files by name have: those of the training split, if there is one.

    Raises:
        DataError: another split has a class that the training split lacks, or there are too many.
    """
    trained = {text for name, one in counts.items() if name.startswith("train/") for text in one}
    known = trained or {text for one in counts.values() for text in one}
    for name, one in counts.items():
        if other := sorted(text for text in one if text is not None and text not in known):
            raise DataError(
                f"{first.parent}: {name} has images of {len(other)} classes that the training split lacks: "
                f"{', '.join(other[:20])}. Correct these labels, or leave those images out."
            )
    if len(known) > MAX_CLASSES:
        raise DataError(f"{first.parent}: more than {MAX_CLASSES:,} classes are refused. Is this the label column?")
    return in_order(text for text in known if text is not None)


def _locate(
    root: Root,
    config: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    cut: bool = False,
) -> dict[str, Path]:
    """As :func:`hub.locate`; where a test split is cut off, one without labels is left out."""
    found = hub.locate(root, config, train_split, test_split, cut)
    tests = [name for name in found if name.startswith("test/")]
    if not (cut and tests) or not all(_unlabelled(found[name]) for name in tests):
        return found
    note = f"{found[tests[0]].parent}: its test split has no labels and is not used"
    return Located({name: path for name, path in found.items() if name not in tests}, [*found.notes, note])


def _unlabelled(path: Path) -> bool:
    """Whether no row of a file has a label: all are negative, empty or missing."""
    found = _Labels(path)
    return found.largest < 0 and not any(found.texts.keys() - {None, ""})


Config = Annotated[str | None, Field(description="which configuration, where the files are those of several")]
TrainSplit = Annotated[str | None, Field(description="what the set calls its training split; default: by its name")]
TestSplit = Annotated[str | None, Field(description="what it calls its test split; default: test, else validation")]


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
            f"Say what it is called, like data.{split}_split: NAME"
            + (", or cut one off the training images: data.test: 0.2." if split == "test" else ".")
        )
    classes, notes = _classes(files), list[str]()
    notes += [f"{p}: the same classes in another order; they are matched by name" for p in mine if classes.order[p]]
    notes += [f"{mine[0].parent}: labels count its {len(classes.names)} named classes from 1"] if classes.first else []

    def rows() -> Iterator[Row]:
        reader = Reader(background, bits, broken)
        for path in mine:
            yield from _rows(path, reader, classes, split)
        reader.finish(str(mine[0].parent), classes.names if split == "train" else ())
        notes.extend(reader.notes(split))

    return Contents(classes.names, rows(), notes)


def _rows(path: Path, reader: Reader, classes: _Classes, split: str) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with _blaming(path), pq.ParquetFile(path) as file:
        image, encoded, label, _ = _columns(path, file.schema_arrow)
        row, promised, step = 0, file.metadata.num_rows, _rows_at_a_time(path, file.metadata)
        for batch in file.iter_batches(batch_size=step, columns=[encoded, label]):
            cells = batch.column(image) if encoded == image else batch.column(image).field("bytes")
            for number, cell in zip(batch.column(label).to_pylist(), cells, strict=True):
                where = f"{path}, row {row}"
                row += 1
                _check_label(number, label, where, split, len(classes.names))
                known = classes.label(path, number)
                found = reader.row(partial(_image_bytes, cell.as_py(), image, where), known, where)
                if found is not None:
                    yield found
        if row != promised:
            raise DataError(f"{path}: promises {promised:,} rows and holds {row:,}. Fetch it again.")


def _check_label(number: int | str | None, label: str, where: str, split: str, classes: int) -> None:
    if number is None or number == "":
        raise DataError(f"{where}: column {label!r} holds no label.")
    if isinstance(number, int) and number < 0:
        raise DataError(
            f"{where}: the label {number} is outside the {classes} classes. Sets whose {split} split is not labelled "
            f"have such: name another, like data.{split}_split: validation"
            + (", or cut one off the training images: data.test: 0.2." if split == "test" else ".")
        )


def _image_bytes(data: bytes | None, image: str, where: str) -> bytes:
    if not data or len(data) > MAX_FILE_BYTES:
        raise BrokenImage(
            f"{where}: column {image!r} holds {len(data or b''):,} image bytes, allowed are 1 "
            f"to {MAX_FILE_BYTES:,}. The pixels themselves must be in the file, not a path."
        )
    return data
