"""What a store holds that no plan needs any more."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fusiondistill_runner.storage.noted_plans import plans
from fusiondistill_runner.storage.store import Store

__all__ = ["Unneeded", "unneeded"]

_STAGE = re.compile(r".+-[0-9a-f]{16}")
_MERGED = "fused-"
_OF_SEARCHES = ("trial-", _MERGED)
"""How the names of stages begin that the trials of a search make."""


@dataclass(frozen=True)
class Unneeded:
    """A stage directory that can go, and its size."""

    directory: str
    bytes: int


def unneeded(store: Store) -> list[Unneeded]:
    """The stage directories that belong to none of the store's plans. Directories of other names are left alone.

    The trials of a planned search belong to it: once it is done those that it names, until then all that may be its.

    Raises:
        CheckpointError: the store has no plans, or one is damaged.
    """
    from pyarrow import fs

    needed = {stage["directory"] for plan in plans(store) for stage in plan["stages"]}
    searches = [store.manifest_of(name) for name in needed if name.startswith("search-")]
    kept = {name for manifest in searches if manifest for name in manifest["outcome"]["directories"]}
    for name in list(kept):  # a trial may start from a merge that no plan has
        kept |= set((store.manifest_of(name) or {"inputs": {}})["inputs"].values())
    found = []
    for directory in store.directories():
        if not _STAGE.fullmatch(directory) or directory in needed | kept:
            continue
        if directory.startswith(_OF_SEARCHES) and None in searches and _may_belong(store, directory, needed):
            continue
        files = store.filesystem.get_file_info(fs.FileSelector(store.path(directory), recursive=True))
        found.append(Unneeded(directory, sum(info.size or 0 for info in files if info.is_file)))
    return found


def _may_belong(store: Store, directory: str, needed: set[str]) -> bool:
    """Whether a stage may belong to a planned search: it is unfinished, or all its inputs are planned or may be."""
    manifest = store.manifest_of(directory)
    if manifest is None:
        return True
    inputs = manifest["inputs"].values()
    return all(name in needed or (name.startswith(_MERGED) and _may_belong(store, name, needed)) for name in inputs)
