"""The best single network under a stable name: ``STORE/best/model.safetensors``, and what it is in ``best.json``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from fusiondistill import NAME, checkpoints
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.config import chosen_by
from fusiondistill.plugins import COPY
from fusiondistill_runner.storage.noted_plans import holds_plans, plans
from fusiondistill_runner.storage.store import Store

__all__ = [
    "BEST", "FACTS", "best_place", "forget_best", "has_best", "keep_best", "model_place", "named_best", "noted_best",
    "stood_for", "why_none",
]  # fmt: skip

BEST = "best"
FACTS = "best.json"
_NOTED = {"experiment": str, "method": str, "seed": int, "stage": str, "sha256": str}


def keep_best(store: Store, directory: str, facts: Mapping[str, Any], seen: Store) -> bool:
    """Lay the weights of a stage under the stable name, then note what they are.

    The copy carries its card. The source of a plugin that the network needs lies beside it. A reader between the two
    writes finds weights with another digest than the noted one.

    Args:
        seen: a snapshot of the store; weights of a bucket that lie there already are not read.

    Returns:
        Whether another network lay there, or none.

    Raises:
        CheckpointError: the stage is not stored, or its weights are damaged.
    """
    manifest = seen.manifest_of(directory) or {"files": {}}
    if checkpoints.MODEL not in manifest["files"]:
        raise CheckpointError(f"{store.shown(directory)} is not stored")
    entry = manifest["files"][checkpoints.MODEL]
    content = {**facts, "stage": directory, "sha256": entry["sha256"]}
    if noted_best(seen) == content and _lies_there(seen, entry):
        return False
    data = store.read_from(directory, checkpoints.MODEL)
    for name in manifest["files"]:
        if name.startswith(COPY):
            store.write(store.read_from(directory, name), BEST, name)
    store.write(data, BEST, checkpoints.MODEL)
    store.write(checkpoints.sealed(content), BEST, FACTS)
    return True


def _lies_there(seen: Store, entry: Mapping[str, Any]) -> bool:
    """Whether the weights of a manifest's entry lie under the stable name; in a bucket the size tells."""
    if seen.remote:
        return bool(_size(seen) == entry["bytes"])
    return checkpoints.digest(seen.read_raw(BEST, checkpoints.MODEL) or b"") == entry["sha256"]


def _size(store: Store) -> int | None:
    """Bytes of the weights under the stable name; None where there are none. A snapshot knows without a request."""
    path = store.path(BEST, checkpoints.MODEL)
    sizes = getattr(store.filesystem, "sizes", None)
    if sizes is not None:
        return sizes.get(path)
    info = store.filesystem.get_file_info(path)
    return info.size if info.is_file else None


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


def named_best(store: Store) -> str:
    """Which network the best one is, in words; "" where the store has none that it can name."""
    noted = noted_best(store)
    return f"{noted['method']}, seed {noted['seed']} ({noted['stage']})" if noted else ""


def stood_for(store: Store) -> str:
    """Which network a store stands for where a model is wanted, in words."""
    return ", ".join(filter(None, (named_best(store), "the store's best network")))


def why_none(plan: Mapping[str, Any]) -> str:
    """Why no network of an experiment stands for choice; "" where some do."""
    if plan.get("validated"):
        return ""
    config = plan["config"]
    if "validated" not in plan:
        return "its rows were never validated (run the config again)"
    if chosen_by(config.get("select"), config["protocol"]) == "test":
        return f"protocol {config['protocol']} chooses epochs on the test split, so no split is left to choose by"
    if all(method["form"] == "file" for method in plan["methods"]):
        return ""  # checkpoints that are evaluated
    return "no validation images are held out (data.validation), or no row is one network"


def has_best(store: Store) -> bool:
    """Whether weights lie under the stable name."""
    return _size(store) is not None


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
        reasons = {plan["experiment"]: _why_not_yet(text, plan) for plan in plans(store)}
        one = len(set(reasons.values())) == 1
        said = [*reasons.values()][:1] if one else [f"{name}: {why}" for name, why in [*reasons.items()][:5]]
        raise CheckpointError(
            f"{text} has no {BEST}/: {'; '.join(said)}. Or give the directory of one stage that made a network"
        )
    return best_place(store)


def _why_not_yet(text: str, plan: Mapping[str, Any]) -> str:
    """Why an experiment has left no best network in a store."""
    if why := why_none(plan):
        return why
    if plan.get("validated"):
        return f"its run has not come to its end (`{NAME} status {text}` says what is missing; run its config again)"
    return "it evaluates files that lie elsewhere, and trains no network"
