"""Tables of predictions: path, label, probability, label_2, probability_2, ...; as a file, or in a terminal.

With degradation and level where the model has a router; without probabilities for a model that votes. A file is written
whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill.data.names import escaped, is_text
from fusiondistill.locations import open_location, write_file
from fusiondistill.targets import why_no_file

if TYPE_CHECKING:
    import pyarrow as pa

    from fusiondistill.prediction import Prediction

__all__ = ["OutError", "check_out", "lines", "write"]

DIGITS = 6
"""Of a probability, in a file."""


class OutError(ValueError):
    """A table cannot be written to that place; the message says why, and what to do."""


def check_out(out: str, classes: Sequence[str], *, force: bool = False) -> None:
    """Check before any work that a table can be written to a place.

    Args:
        out: a file, or a URI of one in a bucket, that ends with .csv, .json or .parquet.
        classes: the labels that it may have to hold.
        force: replace a file that is there.

    Raises:
        OutError: another suffix, no such folder, something is there, or a class whose name the file cannot hold.
    """
    kind = _kind(out)
    if why := why_no_file(out, force=force, buckets=True):
        raise OutError(f"{out}: {why}")
    for name in classes:
        if (why := _unfit(name, kind)) is not None:
            raise OutError(f"{out}: {kind[1:]} cannot hold the name of the class {escaped(name)!r}: {why}")


def write(out: str, predictions: Sequence[Prediction]) -> None:
    """Write a table, whole or not at all; ``out`` as for :func:`check_out`.

    Raises:
        OSError: the disk is full, or the place takes no files.
    """
    filesystem, place = open_location(out)
    write_file(filesystem, place, _FORMS[_kind(out)](_columns(predictions)))


def lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    """The table for a terminal: aligned, probabilities with three digits, no control character of a name."""
    columns = _columns(predictions)
    shown = {
        name: [f"{value:.3f}" if isinstance(value, float) else escaped(_text(value)) for value in values]
        for name, values in columns.items()
    }
    widths = {name: max(map(len, [name, *values])) for name, values in shown.items()}
    for row in zip(*([name, *values] for name, values in shown.items()), strict=True):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths.values(), strict=True)).rstrip()


def _columns(predictions: Sequence[Prediction]) -> dict[str, list[Any]]:
    """Column -> its values; as many labels as the first prediction has, since all have as many."""
    columns: dict[str, list[Any]] = {"path": [one.path for one in predictions]}
    ranks = 1 + (len(predictions[0].others) if predictions else 0)
    ranked = [[(one.label, one.probability), *one.others] for one in predictions]
    for rank in range(ranks):
        suffix = f"_{rank + 1}" if rank else ""
        columns[f"label{suffix}"] = [row[rank][0] for row in ranked]
        chances = [row[rank][1] for row in ranked]
        if None not in chances:
            columns[f"probability{suffix}"] = [float(f"{chance:.{DIGITS}g}") for chance in chances]
    if predictions and predictions[0].degradation is not None:
        columns["degradation"] = [one.degradation for one in predictions]
        columns["level"] = [one.level for one in predictions]
    return columns


def _text(value: Any) -> str:
    return "" if value is None else str(value)


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell opens that a spreadsheet runs as a formula."""


def _unfit(name: str, kind: str) -> str | None:
    """Why a kind of file cannot hold a label; None where it can."""
    if not is_text(name):
        return "it is not UTF-8"
    if kind != ".csv":
        return None
    if "\0" in name or "\r" in name:
        return "it holds a NUL or a carriage return. Write .json or .parquet"
    if name.startswith(_FORMULA) and len(name) > 1 and not _number(name):
        return f"it opens with {name[0]!r}, so that spreadsheets would run it as a formula. Write .json or .parquet"
    return None


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and text == text.strip()


def _kind(out: str) -> str:
    """The suffix of a file, in lower case."""
    suffix = Path(out.partition("?")[0] if "://" in out else out).suffix.lower()
    if suffix not in _FORMS:
        raise OutError(f"{out}: a table ends with {', '.join(_FORMS)}, not {suffix or 'without a suffix'!r}")
    return suffix


def _csv(columns: dict[str, list[Any]]) -> bytes:
    paths = columns["path"]
    # The same file by a path that is no formula.
    columns = {**columns, "path": [f"./{path}" if path.startswith(_FORMULA) else path for path in paths]}
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return stream.getvalue().encode()


def _json(columns: dict[str, list[Any]]) -> bytes:
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return ("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n").encode()


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table: pa.Table = pa.table(columns)
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


_FORMS: dict[str, Callable[[dict[str, list[Any]]], bytes]] = {".csv": _csv, ".json": _json, ".parquet": _parquet}
