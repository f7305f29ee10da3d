"""What the routers of rows said of the test images, level by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["routing_table"]

_ROUTES = "routes.parquet"
_SCHEMA = {
    **dict.fromkeys(("experiment", "method", "degradation"), "string"),
    **dict.fromkeys(("seed", "level"), "int64"),
    "name": "string",
    **dict.fromkeys(("named", "chosen"), "int64"),
    "off": "float64",
}


def routing_table(store: Store, plans: Sequence[Mapping[str, Any]]) -> pa.Table | None:
    """One row per stored (experiment, method, seed, degradation, level, name that the router knows); None without any.

    ``named`` test images were given that name, ``chosen`` were answered by that degradation's network, none by
    that of clean. ``off`` is the mean distance of the levels that the router guessed for those of that name, null
    without such.
    """
    import pyarrow as pa

    manifests = cache(store.manifest_of)
    rows: list[dict[str, Any]] = []
    for plan in plans:
        for piece in plan["rows"]:
            manifest = manifests(piece["directory"])
            if manifest is None or _ROUTES not in manifest["files"]:
                continue
            own = {"experiment": plan["experiment"], **{key: piece[key] for key in ("method", "seed", "degradation")}}
            for said in read_parquet(store.read_from(piece["directory"], _ROUTES)).to_pylist():
                for name, named, chosen, off in zip(
                    said["names"], said["named"], said["chosen"], said["off"], strict=True
                ):
                    rows.append({**own, "level": said["level"], "name": name, "named": named, "chosen": chosen,
                                 "off": off})  # fmt: skip
    columns = {name: pa.array([row[name] for row in rows], pa.type_for_alias(kind)) for name, kind in _SCHEMA.items()}
    return pa.table(columns) if rows else None
