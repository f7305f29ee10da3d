"""Which directories of a store hold the networks of a table, where several have one name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fusiondistill_runner.storage.store import Store

__all__ = ["left_over", "networks"]

_KINDS = ("train", "fuse", "pack", "import")
_STAGE = re.compile(r"(.+)-[0-9a-f]{16}")


def networks(plan: Mapping[str, Any]) -> Iterator[tuple[str, str, int, str]]:
    """(label, name, seed, directory) of every network of a plan's table and of what it was made from."""
    for stage in plan["stages"]:
        if stage["kind"] in _KINDS:
            yield f"{stage['name']}, seed {stage['seed']}", stage["name"], stage["seed"], stage["directory"]


def left_over(store: Store, plans: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Name of a planned network -> the directories of that name that belong to no plan: networks of other settings."""
    planned = {directory: name for plan in plans for _, name, _, directory in networks(plan)}
    found: dict[str, list[str]] = {}
    for directory in store.directories():
        named = _STAGE.fullmatch(directory)
        if named and directory not in planned and named[1] in planned.values():
            found.setdefault(named[1], []).append(directory)
    return found
