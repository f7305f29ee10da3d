"""Images in Parquet files, laid out as Hugging Face does.

One struct column `{bytes, path}` holds PNG or JPEG bytes, one integer column the labels; class names come from the
schema's `huggingface` metadata if it has them. A file's split is the first word of its name: `train-*.parquet`,
`test-*.parquet`; `validation-*`, `valid-*` or `val-*` stand in for a test split that is not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusiondistill.data.decoding import MAX_FILE_BYTES, decode_image
from fusiondistill.data.errors import DataError
from fusiondistill.sources import SOURCES, Contents, Files, Root, Row

__all__ = ["parquet"]

SPLIT_WORDS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
ROWS_AT_A_TIME = 32
BYTES_AT_A_TIME = 256 * 2**20
MAX_ROWS = 50_000_000
MAX_CLASSES = 100_000


def _locate(root: Root) -> dict[str, Path]:
    given = [Path(item).expanduser() for item in (root if isinstance(root, list) else [root or "."])]
    paths = [found for item in given for found in (_in_folder(item) if item.is_dir() else [item])]
    files = {path.name: path for path in sorted(paths, key=lambda path: path.name)}
    if len(files) < len(paths):
        raise DataError(f"two Parquet files of one name among {', '.join(map(str, paths))}: the names must differ.")
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: there is no such file or folder.")
    _check_shards(files)
    return files


def _in_folder(folder: Path) -> list[Path]:
    for candidate in (folder, folder / "data"):
        if found := sorted(candidate.glob("*.parquet")):
            return found
    below = sorted({str(path.parent) for path in folder.glob("*/*.parquet")})
    hint = f" Did you mean {' or '.join(below)}?" if below else ""
    raise DataError(f"{folder}: holds no .parquet file.{hint}")


def _check_shards(files: Files) -> None:
    """`train-00002-of-00005.parquet` says how many there are: miss none."""
    for name, path in files.items():
        if match := re.fullmatch(r"(.+-)(\d+)(-of-)(\d+)(.*\.parquet)", name):
            stem, number, of, total, end = match.groups()
            for shard in range(min(int(total), 100_000)):
                sibling = f"{stem}{shard:0{len(number)}}{of}{total}{end}"
                if sibling not in files:
                    raise DataError(f"{path.with_name(sibling)}: this shard is missing beside {name}.")


def _files_of(files: Files, split: str) -> list[Path]:
    for word in SPLIT_WORDS[split]:
        found = [path for name, path in files.items() if re.match(rf"{word}(?![a-z])", name.lower())]
        if found:
            return found
    return []


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Whatever pyarrow finds wrong with the file becomes a DataError that names it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no intact Parquet file ({error}). Fetch it again.") from error


def _rows_at_a_time(path: Path, metadata: Any) -> int:
    """So few rows that they fit even if each were as large as its group: 1 KB on disk can repeat 32 MB for ever.

    Columns are not asked, which would say it more closely: pyarrow ends the process where what they say is damaged.
    """
    if metadata.num_rows > MAX_ROWS:
        raise DataError(f"{path}: promises {metadata.num_rows:,} rows, more than the limit of {MAX_ROWS:,}.")
    sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    return max(1, min(ROWS_AT_A_TIME, BYTES_AT_A_TIME // max([1, *sizes])))


def _column(path: Path, kind: str, found: list[str], preferred: tuple[str, ...], columns: list[str]) -> str:
    for name in preferred:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{path}: {'no' if not found else 'more than one'} {kind} column among {', '.join(columns)}; "
        f"expected one, or one called {' or '.join(preferred)}."
    )


def _columns(path: Path, schema: Any) -> tuple[str, str]:
    """The names of the image and of the label column."""
    from pyarrow import types

    def is_image(kind: Any) -> bool:
        if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            return False
        inner = kind.field("bytes").type
        return types.is_binary(inner) or types.is_large_binary(inner)

    images = [field.name for field in schema if is_image(field.type)]
    labels = [field.name for field in schema if types.is_integer(field.type)]
    return (
        _column(path, "image (a struct with `bytes`)", images, IMAGE_COLUMNS, schema.names),
        _column(path, "integer label", labels, LABEL_COLUMNS, schema.names),
    )


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


def _classes(files: Files) -> list[str]:
    """The class names of the whole source: declared ones, or "0", "1", ... up to the largest label of any file."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    declared: dict[Path, list[str] | None] = {}
    largest = -1
    for path in files.values():
        with _blaming(path), pq.ParquetFile(path) as file:
            _, label = _columns(path, file.schema_arrow)
            declared[path] = _declared_classes(path, file.schema_arrow, label)
            _rows_at_a_time(path, file.metadata)
            if declared[path] is None:
                for batch in file.iter_batches(batch_size=65_536, columns=[label]):
                    top = pc.max(batch.column(0)).as_py()
                    largest = max(largest, -1 if top is None else top)
    first = next(iter(declared))
    for path, names in declared.items():
        if names != declared[first]:
            raise DataError(f"{path}: declares other classes than {first}. Files of one data set must agree.")
    if largest >= MAX_CLASSES:
        raise DataError(f"{first.parent}: a label of {largest}: more than {MAX_CLASSES:,} classes are refused.")
    return declared[first] or [str(number) for number in range(largest + 1)]


@SOURCES.register("parquet", locate=_locate, needs_root="a folder of train-*.parquet and test-*.parquet, or the files")
def parquet(files: Files, split: str) -> Contents:
    """Parquet files in the Hugging Face image layout."""
    mine = _files_of(files, split)
    if not mine:
        words = " or ".join(f"{word}-*.parquet" for word in SPLIT_WORDS[split])
        raise DataError(f"no {split} split among {', '.join(map(str, files.values()))}: expected {words}.")
    return Contents(_classes(files), (row for path in mine for row in _rows(path)))


def _rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with _blaming(path), pq.ParquetFile(path) as file:
        image, label = _columns(path, file.schema_arrow)
        row, promised, step = 0, file.metadata.num_rows, _rows_at_a_time(path, file.metadata)
        for batch in file.iter_batches(batch_size=step, columns=[f"{image}.bytes", label]):
            cells = batch.column(image).field("bytes")
            for number, cell in zip(batch.column(label).to_pylist(), cells, strict=True):
                where = f"{path}, row {row}"
                data = cell.as_py()
                if not data or len(data) > MAX_FILE_BYTES:
                    raise DataError(
                        f"{where}: column {image!r} holds {len(data or b''):,} image bytes, allowed are 1 "
                        f"to {MAX_FILE_BYTES:,}. The pixels themselves must be in the file, not a path."
                    )
                if number is None:
                    raise DataError(f"{where}: column {label!r} holds no label.")
                yield Row(decode_image(data, where), number, where)
                row += 1
        if row != promised:
            raise DataError(f"{path}: promises {promised:,} rows and holds {row:,}. Fetch it again.")
