"""The stages of a store's plans that are not stored: which failed and why, and which are still to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusiondistill_runner.planning.specs import JUDGING
from fusiondistill_runner.storage.store import ERROR, Store
from fusiondistill_runner.views.timeline import Manifests

__all__ = ["SCHEMA", "last_line", "unfinished"]

SCHEMA = {
    **dict.fromkeys(("experiment", "stage", "name", "kind"), "string"),
    **dict.fromkeys(("seed", "epochs"), "int64"),
    "error": "string",
}


def unfinished(store: Store, plans: Sequence[Mapping[str, Any]], manifests: Manifests) -> list[dict[str, Any]]:
    """A row for each stage that is not stored; of the many evaluations only for those that failed.

    ``epochs`` is the number of a training's stored epochs, null for other stages; ``error`` the last line of the error,
    null without one. A stage that several experiments share stands under the first of them.
    """
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for experiment, stage in ((plan["experiment"], stage) for plan in plans for stage in plan["stages"]):
        directory = stage["directory"]
        if directory in seen or manifests(directory) is not None:
            continue
        seen.add(directory)
        error = store.read_raw(directory, ERROR)
        if error is None and stage["kind"] in JUDGING:
            continue
        rows.append(
            {
                **{name: stage[name] for name in ("name", "kind", "seed")},
                "experiment": experiment,
                "stage": directory,
                "epochs": store.epochs_stored(directory) if stage["kind"] == "train" else None,
                "error": None if error is None else last_line(error),
            }
        )
    return rows


def last_line(error: bytes) -> str:
    """The line of an error that says what went wrong."""
    return (error.decode(errors="replace").strip().splitlines() or ["?"])[-1]
