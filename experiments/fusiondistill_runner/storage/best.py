"""The best single network under a stable name: ``STORE/best/model.safetensors``, and what it is in ``best.json``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from fusiondistill import NAME, checkpoints
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.plugins import COPY
from fusiondistill_runner.storage.noted_plans import holds_plans
from fusiondistill_runner.storage.store import Store

__all__ = ["BEST", "FACTS", "best_place", "forget_best", "has_best", "keep_best", "model_place", "noted_best"]

BEST = "best"
FACTS = "best.json"
_NOTED = {"experiment": str, "method": str, "seed": int, "stage": str, "sha256": str}


def keep_best(store: Store, directory: str, facts: Mapping[str, Any]) -> bool:
    """Lay the weights of a stage under the stable name, then note what they are.

    The copy carries its card. The source of a plugin that the network needs lies beside it. A reader between the two
    writes finds weights with another digest than the noted one.

    Returns:
        Whether another network lay there, or none.

    Raises:
        CheckpointError: the stage is not stored, or its weights are damaged.
    """
    data = store.read_from(directory, checkpoints.MODEL)
    content = {**facts, "stage": directory, "sha256": checkpoints.digest(data)}
    if noted_best(store) == content and store.read_raw(BEST, checkpoints.MODEL) == data:
        return False
    manifest = store.manifest_of(directory) or {"files": {}}
    for name in manifest["files"]:
        if name.startswith(COPY):
            store.write(store.read_from(directory, name), BEST, name)
    store.write(data, BEST, checkpoints.MODEL)
    store.write(checkpoints.sealed(content), BEST, FACTS)
    return True


def forget_best(store: Store) -> None:
    """Delete ``best/``: no plan of the store has its network any more."""
    with contextlib.suppress(FileNotFoundError):
        store.filesystem.delete_dir(store.path(BEST))


def best_place(store: Store) -> str:
    """The path of the folder that holds the best network, as a user would give it."""
    return store.shown(BEST)


def noted_best(store: Store) -> dict[str, Any] | None:
    """What the best network is: experiment, method, seed, stage, sha256, validation.

    None where the store has none, or the note is damaged or not that of the stage which it names.
    """
    data = store.read_raw(BEST, FACTS)
    try:
        content = {} if data is None else checkpoints.unsealed(data, store.path(BEST, FACTS))
        if not all(isinstance(content.get(key), kind) for key, kind in _NOTED.items()):
            return None
        manifest = store.manifest_of(content["stage"])
    except CheckpointError:
        return None
    of_stage = (manifest or {"files": {}})["files"].get(checkpoints.MODEL, {})
    return content if of_stage.get("sha256") == content["sha256"] else None


def has_best(store: Store) -> bool:
    """Whether weights lie under the stable name."""
    return bool(store.filesystem.get_file_info(store.path(BEST, checkpoints.MODEL)).is_file)


def model_place(text: str) -> str:
    """The checkpoint that a MODEL on the command line means: itself, or the best network of a store.

    Raises:
        CheckpointError: a store that has no best network; the message says what to do.
    """
    if text.endswith((".safetensors", ".pt", ".pth", ".ckpt", ".bin")):
        return text
    store = Store(text)
    if not holds_plans(store):
        return text
    if not has_best(store):
        raise CheckpointError(
            f"{text} has no {BEST}/: no row of it is finished, its stages were made before there were validations, or "
            f"its protocol leaves no validation images. Run its config again (`{NAME} run`), or give the directory of "
            "one stage that trained or merged a network"
        )
    return best_place(store)
