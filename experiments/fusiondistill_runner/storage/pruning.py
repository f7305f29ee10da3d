"""What a store holds that no plan needs any more."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fusiondistill_runner.storage.noted_plans import plans
from fusiondistill_runner.storage.store import Store

__all__ = ["Unneeded", "unneeded"]

_STAGE = re.compile(r".+-[0-9a-f]{16}")


@dataclass(frozen=True)
class Unneeded:
    """A stage directory that can go, and its size."""

    directory: str
    bytes: int


def unneeded(store: Store) -> list[Unneeded]:
    """Stage directories that belong to none of the store's plans; whatever else lies there is not ours to judge.

    The trials of a planned search belong to it: those that it names once it is done, until then all that may be its.

    Raises:
        CheckpointError: the store has no plans, or one is damaged.
    """
    from pyarrow import fs

    needed = {stage["directory"] for plan in plans(store) for stage in plan["stages"]}
    searches = [store.manifest_of(name) for name in needed if name.startswith("search-")]
    named = {name for manifest in searches if manifest for name in manifest["outcome"]["directories"]}
    found = []
    for directory in store.directories():
        if not _STAGE.fullmatch(directory) or directory in needed | named:
            continue
        if directory.startswith("trial-") and None in searches and _may_belong(store, directory, needed):
            continue
        files = store.filesystem.get_file_info(fs.FileSelector(store.path(directory), recursive=True))
        found.append(Unneeded(directory, sum(info.size or 0 for info in files if info.is_file)))
    return found


def _may_belong(store: Store, trial: str, needed: set[str]) -> bool:
    """Whether a trial could be one of a planned search: all that it rests on is planned, or it is not finished."""
    manifest = store.manifest_of(trial)
    return manifest is None or all(name in needed for name in manifest["inputs"].values())
