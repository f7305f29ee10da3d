"""The best single network under a stable name: ``STORE/best/model.safetensors``, and what it is in ``best.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusiondistill import NAME, checkpoints
from fusiondistill.checkpoints import CheckpointError
from fusiondistill_runner.storage.noted_plans import holds_plans
from fusiondistill_runner.storage.store import Store

__all__ = ["BEST", "FACTS", "best_place", "keep_best", "model_place", "noted_best"]

BEST = "best"
FACTS = "best.json"


def keep_best(store: Store, directory: str, facts: Mapping[str, Any]) -> bool:
    """Lay the weights of a stage under the stable name, then note what they are.

    The copy carries its card and needs no other file. A reader between the two writes finds weights whose digest is not
    the noted one, see :func:`noted_best`.

    Returns:
        Whether another network lay there, or none.
    """
    data = store.read_from(directory, checkpoints.MODEL)
    content = {**facts, "stage": directory, "sha256": checkpoints.digest(data)}
    if noted_best(store) == content and store.read_raw(BEST, checkpoints.MODEL) == data:
        return False
    store.write(data, BEST, checkpoints.MODEL)
    store.write(checkpoints.sealed(content), BEST, FACTS)
    return True


def best_place(store: Store) -> str:
    """The path of the folder that holds the best network, as a user would give it."""
    return store.shown(BEST)


def noted_best(store: Store) -> dict[str, Any] | None:
    """What the best network is: experiment, method, seed, stage, sha256, validation; None where the store has none."""
    data = store.read_raw(BEST, FACTS)
    try:
        return None if data is None else checkpoints.unsealed(data, store.path(BEST, FACTS))
    except CheckpointError:
        return None


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
    if store.read_raw(BEST, checkpoints.MODEL) is None:
        raise CheckpointError(
            f"{text} has no {BEST}/: no row of it is finished, its stages were made before there were validations, or "
            f"its protocol leaves no validation images. Run its config again (`{NAME} run`), or give the directory of "
            "one stage that trained or merged a network"
        )
    return best_place(store)
