"""Which networks of a store stand for choice as the best single one, how validation judged them, and the choice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusiondistill.checkpoints import CheckpointError
from fusiondistill.report.choice import SCHEMA, Choice
from fusiondistill_runner.planning.specs import ValidateSpec
from fusiondistill_runner.storage.best import best_place, has_best, keep_best, noted_best, why_none
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.validate import CLEAN

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["judged_table", "keep_choice"]


def judged_table(store: Store, plans: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A row for each network that stands for choice: see :data:`fusiondistill.report.choice.SCHEMA`."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for plan in plans:
        named = {"experiment": plan["experiment"], "model": plan["config"]["model"]["name"]}
        rows += [{**named, "why": why}] if (why := why_none(plan)) else []
        rows += [{**named, **one, **_counts(store, one["directory"])} for one in plan.get("validated") or ()]
    noted = (noted_best(store) or {}).get("stage") if has_best(store) else None
    for row in rows:
        if "network" in row:
            row["place"] = best_place(store) if row["network"] == noted else store.shown(row["network"])
            row |= _needs(store, row["network"]) if row.get("seen") else {}
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in SCHEMA.items()})


def _counts(store: Store, directory: str) -> dict[str, int]:
    """The right answers of a network on validation images; nothing while it is not judged."""
    manifest = store.manifest_of(directory)
    if manifest is None or manifest.get("kind") != ValidateSpec.kind:
        return {}
    try:
        counted = {key: {of: int(n) for of, n in manifest["outcome"][key].items()} for key in ("right", "seen")}
        clean = {f"clean_{key}": values.pop(CLEAN) for key, values in counted.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{store.shown(directory)} holds no counts of a validation") from error
    return {**clean, **{key: sum(values.values()) for key, values in counted.items()}}


def _needs(store: Store, network: str) -> dict[str, Any]:
    """What the user of a network has to say: how photos of another size are fitted, and its plugin."""
    card = (store.manifest_of(network) or {}).get("card") or {}
    return {"any_size": bool(card.get("fit")), "plugin": (card.get("plugin") or {}).get("file") or ""}


def keep_choice(
    store: Store, found: Sequence[Choice], experiments: Collection[str] | None = None, *, seen: Store
) -> bool:
    """Lay the chosen network under its stable name.

    Args:
        experiments: those of this run; the first choice with one of them counts. None: the only choice counts.
        seen: a snapshot of the store.

    Returns:
        Whether another network was laid there than before.

    Raises:
        CheckpointError: the weights of the chosen one are damaged or gone.
    """
    ours = [c for c in found if experiments is None or any(one.experiment in experiments for one in c.candidates)]
    if not ours or (experiments is None and len(ours) > 1) or ours[0].best is None:
        return False
    best, seed = ours[0].best, ours[0].seed
    counts = {key: ours[0].chosen[key] for key in ("right", "seen", "clean_right", "clean_seen")}
    facts = {"experiment": best.experiment, "method": best.about.id, "seed": seed, "validation": counts}
    return keep_best(store, ours[0].chosen["network"], facts, seen)
