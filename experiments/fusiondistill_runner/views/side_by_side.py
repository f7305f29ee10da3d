"""One report over several stores: their tables are joined, and experiments of the same name are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.results import rebuilt, report_tables

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["labels", "merged", "open_stores", "side_by_side", "write_report_to"]


def open_stores(locations: Sequence[str]) -> list[Store]:
    """The stores at these locations.

    Raises:
        ValueError: two of them are the same store.
    """
    stores = [Store(location) for location in locations]
    counted = Counter(store.shown() for store in stores)
    twice = [store.location for store in stores if counted[store.shown()] > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice; each store stands for itself in a report, so name it once")
    return stores


def side_by_side(stores: Sequence[Store]) -> dict[str, Any]:
    """The arguments of :func:`fusiondistill.report.write` (with ``results``) for all stores, which are only read.

    Raises:
        CheckpointError: one of them is no store.
    """
    parts = []
    for store in stores:
        tables = rebuilt(store)
        parts.append({"results": tables["results"], **report_tables(store, tables["results"], tables)})
    return merged(labels([store.location for store in stores]), parts)


def labels(locations: Sequence[str]) -> list[str]:
    """Names for stores: the shortest ends of their locations that differ."""
    pieces = [location.rstrip("/").split("/") for location in locations]
    for length in range(1, max(map(len, pieces)) + 1):
        found = ["/".join(piece[-length:]) for piece in pieces]
        if len(set(found)) == len(found):
            return found
    return list(locations)


def merged(names: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tables of several stores, joined into one of each kind.

    The store's name follows an experiment that several stores have, and precedes every fact.
    """
    if len(parts) == 1:
        return dict(parts[0])
    clashing = _clashing([_experiments(part) for part in parts])
    tables: dict[str, list[pa.Table]] = {}
    said: dict[str, str] = {}
    for name, part in zip(names, parts, strict=True):
        for kind, table in part.items():
            if kind == "facts":
                said |= {f"{name}: {fact}": text for fact, text in table.items()}
            elif table is not None:
                tables.setdefault(kind, []).append(_renamed(table, {e: f"{e} ({name})" for e in clashing}))
    return {kind: _below(found) for kind, found in tables.items()} | {"facts": said}


def _clashing(found: Sequence[set[str]]) -> set[str]:
    counted = Counter(name for names in found for name in names)
    return {name for name, count in counted.items() if count > 1}


def _experiments(part: Mapping[str, Any]) -> set[str]:
    tables = (table for kind, table in part.items() if kind != "facts" and table is not None)
    return {name for table in tables if "experiment" in table.column_names for name in _names(table)}


def _names(table: pa.Table) -> list[str]:
    names: list[str] = table["experiment"].unique().to_pylist()
    return names


def _renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    if "experiment" not in table.column_names:
        return table
    column = [names.get(name, name) for name in table["experiment"].to_pylist()]
    return table.set_column(table.column_names.index("experiment"), "experiment", pa.array(column, pa.string()))


def _below(tables: Sequence[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="permissive")


def write_report_to(directory: str, tables: Mapping[str, Any]) -> str:
    """Write the report into a directory of this machine; returns the path of its page.

    Raises:
        ValueError: there is a file of that name.
    """
    from fusiondistill import report

    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{directory} is a file; --out takes a directory, which is made if it is not there")
    given = dict(tables)
    return str(report.write(folder, given.pop("results"), **given)[0])
