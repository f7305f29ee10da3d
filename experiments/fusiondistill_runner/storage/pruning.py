"""What a store holds that no plan needs any more."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusiondistill.checkpoints import CheckpointError
from fusiondistill_runner.planning.specs import MergeSpec, SearchSpec
from fusiondistill_runner.planning.trials import TRIAL
from fusiondistill_runner.storage.noted_plans import plans
from fusiondistill_runner.storage.store import Store

__all__ = ["Unneeded", "unneeded"]

_STAGE = re.compile(r"(.+)-[0-9a-f]{16}")


@dataclass(frozen=True)
class Unneeded:
    """A stage directory that can go, and its size."""

    directory: str
    bytes: int


def unneeded(store: Store) -> list[Unneeded]:
    """The stage directories that belong to none of the store's plans. Directories of other names are left alone.

    The trials of a planned search are kept: those that its manifest names, before its end all that may be its trials.

    Raises:
        CheckpointError: the store has no plans, or one is damaged.
    """
    from pyarrow import fs

    needed = {stage["directory"]: stage for plan in plans(store) for stage in plan["stages"]}
    searches = [store.manifest_of(name) for name, stage in needed.items() if stage["kind"] == SearchSpec.kind]
    kept = {name for manifest in searches if manifest for name in manifest["outcome"]["directories"]}
    for name in list(kept):  # a trial may start from a merge that no plan has
        kept |= set((store.manifest_of(name) or {"inputs": {}})["inputs"].values())
    found = []
    for directory in store.directories():
        if not _STAGE.fullmatch(directory) or directory in needed or directory in kept:
            continue
        if None in searches and _may_belong(store, directory, needed):
            continue
        files = store.filesystem.get_file_info(fs.FileSelector(store.path(directory), recursive=True))
        found.append(Unneeded(directory, sum(info.size or 0 for info in files if info.is_file)))
    return found


def _may_belong(store: Store, directory: str, needed: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a stage may be a trial, or the start of one, of a planned search that is not done.

    The manifest of a finished stage tells: it is a trial or a merge, and each of its inputs is planned or may belong,
    too. Of an unfinished or damaged stage only the name tells.

    Args:
        needed: directory -> the planned stage.
    """
    manifest = None
    with contextlib.suppress(CheckpointError):
        manifest = store.manifest_of(directory)
    if manifest is None:
        found = _STAGE.fullmatch(directory)
        merges = {stage["name"] for stage in needed.values() if stage["kind"] == MergeSpec.kind}
        return found is not None and found[1] in {TRIAL, *merges}
    if manifest["kind"] != MergeSpec.kind and manifest["name"] != TRIAL:
        return False
    return all(name in needed or _may_belong(store, name, needed) for name in manifest["inputs"].values())
