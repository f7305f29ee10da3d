"""The plans that were run into a store, each noted there under its experiment's name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusiondistill.checkpoints import CheckpointError, sealed, unsealed
from fusiondistill_runner.planning.rows import OtherFormat, Plan, check_plan
from fusiondistill_runner.storage.store import Store

__all__ = ["check_format", "holds_plans", "note_plan", "noted_plan", "noted_plugins", "plans", "retire_points"]


def note_plan(store: Store, plan: Plan, extra: Mapping[str, Any]) -> None:
    """Write the plan into the store. The views read from it which stages make which table."""
    content = {**plan.describe(), **extra}
    store.write(sealed(content), "plans", f"{plan.config.experiment}.json")


def noted_plan(store: Store, plan: Plan) -> dict[str, Any] | None:
    """How and where this very plan was started before; None if the store holds no plan of this name, or another."""
    name = f"{plan.config.experiment}.json"
    try:
        content = unsealed(store.read_raw("plans", name) or b"", store.path("plans", name))
    except CheckpointError:
        return None
    if any(content.get(key) != value for key, value in json.loads(json.dumps(plan.describe())).items()):
        return None
    return {key: content[key] for key in ("command", "started", "machine", "versions") if key in content}


def noted_plugins(store: Store, experiment: str) -> tuple[str, dict[str, str]]:
    """The plugins of the last run that a store notes: of this experiment, or else of any that had some.

    Returns:
        (when it was started, file -> digest); ("", {}) where no plan says so, or one cannot be read.
    """
    own = f"{experiment}.json"
    found: list[tuple[str, dict[str, str]]] = [("", {})]
    for name in [own, *(name for name in _names(store) if name != own)]:
        try:
            content = unsealed(store.read_raw("plans", name) or b"", store.path("plans", name))
        except CheckpointError:
            continue
        if isinstance(plugins := content.get("plugins"), dict) and plugins:
            found.append((str(content.get("started")), {str(file): str(sha) for file, sha in plugins.items()}))
            if name == own:
                break
    return max(found, key=lambda one: one[0])


def retire_points(store: Store, sweep: str, kept: Sequence[str]) -> None:
    """Delete the plans of points that a sweep no longer has. Their stages stay until ``fusiondistill prune``."""
    for plan in plans(store):
        if plan.get("sweep") == sweep and plan["experiment"] not in kept:
            store.filesystem.delete_file(store.path("plans", f"{plan['experiment']}.json"))


def _names(store: Store) -> list[str]:
    """The names of the plans' files."""
    from pyarrow import fs

    found = store.filesystem.get_file_info(fs.FileSelector(store.path("plans"), allow_not_found=True))
    names = sorted(info.base_name for info in found if info.base_name.endswith(".json"))
    return [name for name in names if not name.startswith(".")]


def holds_plans(store: Store) -> bool:
    """Whether a run was ever started into a store."""
    return bool(_names(store.glance()))


def check_format(store: Store) -> None:
    """Refuse a store of another version before anything is written into it.

    A run would overwrite that version's plans and views, and `prune` would then delete its stages. Damaged plans pass:
    running their configs again mends them.

    Raises:
        OtherFormat: another version noted a plan; the message says what to do.
    """
    seen = store.glance()
    for name in _names(seen):
        path = seen.path("plans", name)
        try:
            check_plan(unsealed(seen.read_raw("plans", name) or b"", path), name.removesuffix(".json"), path)
        except OtherFormat:
            raise
        except CheckpointError:
            continue


def plans(store: Store) -> list[dict[str, Any]]:
    """The plans that were run into a store, sorted by experiment; a sweep's points stand in the sweep's order.

    Raises:
        CheckpointError: there is none, or one is damaged.
        OtherFormat: another version of the project noted one.
    """
    store = store.glance()
    names = _names(store)
    if not names and not (store.is_there() or Path(store.root).exists()):
        raise CheckpointError(f"{store.location} does not exist: give the store of a run")
    if not names:
        raise CheckpointError(f"{store.location} is no store: it holds no plans/*.json; a run makes one")
    contents = []
    for name in names:
        path = store.path("plans", name)
        try:
            content = unsealed(store.read_raw("plans", name) or b"", path)
            check_plan(content, name.removesuffix(".json"), path)
        except OtherFormat:
            raise
        except CheckpointError as error:
            raise CheckpointError(f"{error}; run the config again") from error
        contents.append(content)
    in_order = sorted(zip(names, contents, strict=True), key=lambda named: _place(*named))
    return [content for _, content in in_order]


def _place(name: str, plan: Mapping[str, Any]) -> tuple[str, int, str]:
    """A plan's sort key; the points of a sweep stay together."""
    sweep = plan.get("sweep") or ""
    return (f"{sweep}.json", plan["order"], name) if "order" in plan else (name, 0, name)
