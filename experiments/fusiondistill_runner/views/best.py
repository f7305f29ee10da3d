"""Which networks of a store stand for choice as the best single one, how validation judged them, and the choice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusiondistill.config import chosen_by
from fusiondistill.report.choice import SCHEMA, Choice
from fusiondistill_runner.storage.best import best_place, keep_best, noted_best
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
        rows += [{**named, "why": why}] if (why := _why_none(plan)) else []
        rows += [{**named, **one, **_counts(store, one["directory"])} for one in plan.get("validated") or ()]
    noted = noted_best(store) or {}
    for row in rows:
        if "network" in row:
            kept = row["network"] == noted.get("stage")
            row["place"] = best_place(store) if kept else store.shown(row["network"])
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in SCHEMA.items()})


def _why_none(plan: Mapping[str, Any]) -> str:
    """Why no network of an experiment stands for choice; "" where some do."""
    if plan.get("validated"):
        return ""
    config = plan["config"]
    if "validated" not in plan:
        return f"{plan['experiment']} was run before rows were validated (run its config again)"
    if chosen_by(config.get("select"), config["protocol"]) == "test":
        return f"protocol {config['protocol']} chooses epochs on the test split, so no split is left to choose by"
    if all(method["form"] == "file" for method in plan["methods"]):
        return ""  # checkpoints that are evaluated
    return f"{plan['experiment']} holds out no validation images (data.validation), or has no row of one network"


def _counts(store: Store, directory: str) -> dict[str, int]:
    """The right answers of a network on validation images; nothing while it is not judged."""
    manifest = store.manifest_of(directory)
    if manifest is None:
        return {}
    counted = {key: dict(manifest["outcome"][key]) for key in ("right", "seen")}
    clean = {f"clean_{key}": values.pop(CLEAN) for key, values in counted.items()}
    return {**clean, **{key: sum(values.values()) for key, values in counted.items()}}


def keep_choice(store: Store, found: Sequence[Choice], experiments: Collection[str] | None = None) -> bool:
    """Lay the chosen network under its stable name.

    Args:
        experiments: those of this run; the first choice with one of them counts. None: the only choice counts.

    Returns:
        Whether another network was laid there than before.
    """
    ours = [c for c in found if experiments is None or any(one.experiment in experiments for one in c.candidates)]
    if not ours or (experiments is None and len(ours) > 1) or ours[0].best is None:
        return False
    best, seed = ours[0].best, ours[0].seed
    counts = {key: ours[0].chosen[key] for key in ("right", "seen", "clean_right", "clean_seen")}
    facts = {"experiment": best.experiment, "method": best.about.id, "seed": seed, "validation": counts}
    return keep_best(store, ours[0].chosen["network"], facts)
