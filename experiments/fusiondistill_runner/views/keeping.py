"""Tables whose rows cost time to compute: those of experiments whose stages have not changed are taken over."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusiondistill.checkpoints import digest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Keeping"]


class Keeping:
    """The rows of a table as it is made anew, beside those of the table as it was.

    Args:
        before: the earlier table, or None. One that was changed since is not looked at.
        settings: what the rows depend on besides their stages, JSON-able.
    """

    def __init__(self, before: pa.Table | None, settings: Sequence[Any]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._settings, self._stamps = list(settings), list[str]()
        self._earlier, self._made_from = _intact(before)

    def unchanged(self, own: Mapping[str, Any], inputs: str, pairs: Collection[tuple[str, str]] | None = None) -> bool:
        """Note what rows are made from, and take them from the earlier table if that was made from the same.

        Args:
            own: columns that all of these rows have alike.
            inputs: the digest of what they are made from.
            pairs: (a, b) of the rows that are wanted; None: all.
        """
        self._stamps.append(json.dumps([own, inputs, *self._settings], sort_keys=True))
        if self._stamps[-1] not in self._made_from:
            return False
        mine = (row for row in self._earlier if own.items() <= row.items())
        self.rows.extend(row for row in mine if pairs is None or (row["a"], row["b"]) in pairs)
        return True

    def table(self, schema: Mapping[str, str]) -> pa.Table:
        """The rows as a table of these columns and types."""
        import pyarrow as pa

        table = pa.table(
            {name: pa.array([row[name] for row in self.rows], pa.type_for_alias(kind)) for name, kind in schema.items()}
        )
        made_of = json.dumps(self._stamps)
        return table.replace_schema_metadata({"made_from": made_of, "digest": _digest(table.to_pylist(), made_of)})


def _intact(before: pa.Table | None) -> tuple[list[dict[str, Any]], set[str]]:
    """The rows of an earlier table and what they were made from; nothing if the table was changed since."""
    metadata = (before.schema.metadata or {}) if before is not None else {}
    made_of = metadata.get(b"made_from", b"[]").decode(errors="replace")
    try:
        rows: list[dict[str, Any]] = before.to_pylist() if before is not None else []
    except ValueError:  # a text column that is not UTF-8
        return [], set()
    if metadata.get(b"digest", b"").decode(errors="replace") != _digest(rows, made_of):
        return [], set()
    return rows, set(json.loads(made_of))


def _digest(rows: Sequence[Mapping[str, Any]], made_of: str) -> str:
    return digest(json.dumps([rows, made_of], sort_keys=True, default=str).encode())
