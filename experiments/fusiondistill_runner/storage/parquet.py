"""Tables to and from the bytes of a Parquet file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fusiondistill.checkpoints import CheckpointError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["parquet_bytes", "read_parquet"]

MOST_ROWS = 2**26
"""The most rows that are read, more than any stage writes. A damaged file of a few bytes may claim far more."""


def parquet_bytes(table: Any) -> bytes:
    """A pyarrow table as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def read_parquet(data: bytes) -> pa.Table:
    """The table in the bytes of a Parquet file.

    Raises:
        CheckpointError: it claims to hold more than 2**26 rows.
        ArrowException, OSError, ValueError: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Not read_table: its threads may free the bytes after the interpreter has ended, which kills the process.
    file = pq.ParquetFile(pa.BufferReader(data))
    rows = sum(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
    if rows > MOST_ROWS:
        raise CheckpointError(f"a table claims to hold {rows:,} rows, at most {MOST_ROWS:,} are read")
    return file.read()
