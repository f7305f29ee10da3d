"""What stages leave beside counts, as the report's tables: training curves, trials, fusions, and how it was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["facts", "read_parquet", "stage_tables"]

PROTOCOLS = {
    "standard": "standard: epochs are chosen on a validation split of the training images, salt is 255, BatchNorm is "
    "recomputed after merging, the test split is looked at once",
    "paper": "paper: as the original did it, leaks included: the kept epoch is the one that scores best on the test "
    "split, salt is painted as 1 (near black), the merged network keeps the first expert's BatchNorm statistics, "
    "and a seed changes the initial weights only",
}


def read_parquet(data: bytes) -> pa.Table:
    """The table in the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Not read_table: its threads may let go of the bytes after the interpreter is gone, which ends it by a signal.
    return pq.ParquetFile(pa.BufferReader(data)).read()


def stage_tables(store: Store, plans: Sequence[Mapping[str, Any]]) -> dict[str, pa.Table | None]:
    """Curves, trials, importance and fusion of all stored stages, in the report's form; None where there is nothing.

    A stage that several experiments share stands under the first of them.
    """
    found: dict[str, list[dict[str, Any]]] = {"curves": [], "trials": [], "importance": [], "fusion": []}
    seen = set()
    for experiment, stage in ((plan["experiment"], stage) for plan in plans for stage in plan["stages"]):
        directory = stage["directory"]
        manifest = store.manifest_of(directory) if directory not in seen else None
        seen.add(directory)
        if manifest is None:
            continue
        common = {"experiment": experiment, "seed": stage["seed"]}
        if stage["kind"] == "train":
            found["curves"] += _curves(store, stage, common)
        elif stage["kind"] == "search":
            found["trials"] += _trials(store, stage, manifest, common)
            importance = manifest["outcome"].get("importance") or {}
            found["importance"] += [{**common, "dimension": d, "value": float(v)} for d, v in importance.items()]
        elif stage["kind"] == "fuse":
            outcome = manifest["outcome"]
            named = {**common, "stage": stage["name"], "barrier": outcome["barrier"]}
            found["fusion"] += [{**named, "expert": d, "distance": v} for d, v in outcome["distance"].items()]
    return {name: _table(rows) for name, rows in found.items()}


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table | None:
    """Rows that need not all have the same columns as a table; null where a row lacks one."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names}) if rows else None


_CURVES = ("loss", "train_accuracy")


def _curves(store: Store, stage: Mapping[str, Any], common: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = read_parquet(store.read_from(stage["directory"], "metrics.parquet")).to_pylist()
    curves = []
    for row in rows:
        values = {name: row[name] for name in _CURVES}
        if row.get("validation") is not None:
            values["validation_accuracy"] = row["validation"]
        point = {**common, "stage": stage["name"], "epoch": int(row["epoch"])}
        curves += [{**point, "name": n, "value": float(v)} for n, v in values.items()]
    return curves


def _trials(
    store: Store, stage: Mapping[str, Any], manifest: Mapping[str, Any], common: Mapping[str, Any]
) -> list[dict[str, Any]]:
    rows = read_parquet(store.read_from(stage["directory"], "trials.parquet")).to_pylist()
    keep = ("epochs", "seeds", "validation", "stopped", *manifest["spec"]["space"], "fusion.method")
    return [{**common, "trial": str(row["trial"]), **{name: row[name] for name in keep if name in row}} for row in rows]


def facts(store: Store, plans: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What it takes to run it again, and on what it ran."""
    import yaml

    said: dict[str, str] = {}
    directories = dict.fromkeys(stage["directory"] for plan in plans for stage in plan["stages"])
    manifests = [manifest for directory in directories if (manifest := store.manifest_of(directory))]
    for plan in plans:
        prefix = f"{plan['experiment']}: " if len(plans) > 1 else ""
        config = plan["config"]
        said[f"{prefix}command"] = plan.get("command", "")
        said[f"{prefix}protocol"] = PROTOCOLS[config["protocol"]]
        said[f"{prefix}seeds"] = ", ".join(map(str, config["seeds"]))
        if "machine" in plan:
            said[f"{prefix}machine"] = plan["machine"]
        said[f"{prefix}config"] = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100)
    searches = [m for m in manifests if m["kind"] == "search"]
    if searches:
        minutes = sum(m["training_seconds"] for m in searches) / 60
        count = sum(m["outcome"]["trials"] for m in searches)
        said["cost of the search"] = f"{count} trials in {len(searches)} searches, {minutes:.1f} worker-minutes"
    if manifests:
        versions = sorted({f"{k} {v}" for m in manifests for k, v in m.get("versions", {}).items()})
        training = sum(m.get("training_seconds", 0.0) for m in manifests)
        said["versions"] = ", ".join([*versions, *sorted({p["versions"] for p in plans if "versions" in p})])
        said["hardware"] = ", ".join(sorted({f"{m['device']} on {m['host']}" for m in manifests if "device" in m}))
        said["time spent training"] = f"{training / 60:.1f} worker-minutes in {len(manifests)} stages"
    return {name: text for name, text in said.items() if text}
