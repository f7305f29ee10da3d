"""Views of a store: the results table, curves, trials and facts, rebuilt from committed stages alone."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.plan import Plan
from experiments.store import ERROR, PROGRESS, Store, parquet_bytes
from fusiondistill.checkpoints import MANIFEST, CheckpointError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["note_plan", "plans", "results_table", "write_report", "write_results"]

PROTOCOLS = {
    "standard": "standard: epochs are chosen on a validation split of the training images, salt is 255, BatchNorm is "
    "recomputed after merging, the test split is looked at once",
    "paper": "paper: as the original did it, leaks included: the kept epoch is the one that scores best on the test "
    "split, salt is painted as 1 (near black), the merged network keeps the first expert's BatchNorm statistics, "
    "and a seed changes the initial weights only",
}


def note_plan(store: Store, plan: Plan, extra: Mapping[str, Any]) -> None:
    """Leave the plan in the store, so that whoever finds it knows which stages make which table."""
    content = {**plan.describe(), **extra}
    store.write(json.dumps(content, indent=1).encode(), "plans", f"{plan.config.experiment}.json")


def plans(store: Store) -> list[dict[str, Any]]:
    """The plans that were run into a store.

    Raises:
        CheckpointError: there is none, or one is damaged.
    """
    from pyarrow import fs

    store = store.glance()
    found = store.filesystem.get_file_info(fs.FileSelector(store.path("plans"), allow_not_found=True))
    names = sorted(info.base_name for info in found if info.base_name.endswith(".json"))
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise CheckpointError(f"{store.location} is no store: it holds no plans/*.json; a run makes one")
    contents = []
    for name in names:
        try:
            contents.append(json.loads(store.read_raw("plans", name) or b""))
        except ValueError as error:
            raise CheckpointError(f"{store.path('plans', name)} is damaged: {error}; run the config again") from error
    return contents


def _parquet(data: bytes) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(data))


def results_table(store: Store, plans: Sequence[Mapping[str, Any]]) -> pa.Table:
    """One row per (method, seed, degradation, level) that is stored: counts, never percentages."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA}
    read: dict[str, list[dict[str, int]] | None] = {}
    for plan in plans:
        config = plan["config"]
        for row in plan["rows"]:
            directory = row["directory"]
            if directory not in read:
                read[directory] = _counts(store, directory)
            for counted in read[directory] or []:
                values = {
                    "experiment": plan["experiment"],
                    "method": row["method"],
                    "model": config["model"]["name"],
                    "seed": row["seed"],
                    "dataset": config["data"]["name"],
                    "protocol": config["protocol"],
                    "degradation": row["degradation"],
                    **counted,
                    "stage": directory,
                }
                for name, value in values.items():
                    columns[name].append(value)
    types = {name: pa.int64() if kind == "int" else pa.string() for name, kind in _SCHEMA.items()}
    return pa.table({name: pa.array(columns[name], types[name]) for name in _SCHEMA})


_SCHEMA = {
    "experiment": "str",
    "method": "str",
    "model": "str",
    "seed": "int",
    "dataset": "str",
    "protocol": "str",
    "degradation": "str",
    "level": "int",
    "right": "int",
    "seen": "int",
    "stage": "str",
}


def _counts(store: Store, directory: str) -> list[dict[str, int]] | None:
    if store.manifest_of(directory) is None:
        return None
    rows: list[dict[str, int]] = _parquet(store.read_from(directory, "counts.parquet")).to_pylist()
    return rows


def write_results(store: Store) -> pa.Table:
    """Rebuild ``results.parquet`` from all plans of the store; returns the table."""
    table = results_table(store.glance(MANIFEST, "counts.*.parquet"), plans(store))
    store.write(parquet_bytes(table), "results.parquet")
    return table


def expected(plans: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The methods and degradations that the plans are to give, stored or not."""
    rows = [row for plan in plans for row in plan["rows"]]
    return tuple(dict.fromkeys(r["method"] for r in rows)), tuple(dict.fromkeys(r["degradation"] for r in rows))


def table_lines(store: Store, results: pa.Table) -> list[str]:
    """The table for a terminal; what is not stored yet is shown as missing."""
    from fusiondistill import report

    methods, degradations = expected(plans(store))
    return report.table_lines(results, methods=methods, degradations=degradations)


def _stage_tables(store: Store, plans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Curves, trials and fusion facts of all stored stages, in the report's form."""
    curves: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    fusion: list[dict[str, Any]] = []
    seen = set()
    for stage in (s for plan in plans for s in plan["stages"]):
        directory = stage["directory"]
        manifest = store.manifest_of(directory) if directory not in seen else None
        seen.add(directory)
        if manifest is None:
            continue
        if stage["kind"] == "train":
            curves += _curves(store, stage)
        elif stage["kind"] == "search":
            trials += _trials(store, stage)
        elif stage["kind"] == "fuse":
            outcome = manifest["outcome"]
            fusion += [
                {
                    "stage": stage["name"],
                    "seed": stage["seed"],
                    "expert": d,
                    "distance": v,
                    "barrier": outcome["barrier"],
                }
                for d, v in outcome["distance"].items()
            ]
    return {"curves": curves, "trials": trials, "fusion": fusion}


_CURVES = ("loss", "train_accuracy")


def _curves(store: Store, stage: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = _parquet(store.read_from(stage["directory"], "metrics.parquet")).to_pylist()
    common = {"stage": stage["name"], "seed": stage["seed"]}
    curves = []
    for row in rows:
        values = {name: row[name] for name in _CURVES}
        if row.get("validation") is not None:
            values["validation_accuracy"] = row["validation"]
        curves += [{**common, "epoch": int(row["epoch"]), "name": n, "value": float(v)} for n, v in values.items()]
    return curves


def _trials(store: Store, stage: Mapping[str, Any]) -> list[dict[str, Any]]:
    manifest = store.manifest_of(stage["directory"])
    assert manifest is not None
    rows = _parquet(store.read_from(stage["directory"], "trials.parquet")).to_pylist()
    keep = ("epochs", "validation", "stopped", *manifest["spec"]["space"])
    return [{"trial": str(row["trial"]), "seed": stage["seed"], **{name: row[name] for name in keep}} for row in rows]


def _facts(store: Store, plans: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What it takes to run it again, and on what it ran."""
    import yaml

    facts: dict[str, str] = {}
    manifests = [m for plan in plans for s in plan["stages"] if (m := store.manifest_of(s["directory"]))]
    for plan in plans:
        prefix = f"{plan['experiment']}: " if len(plans) > 1 else ""
        config = plan["config"]
        facts[f"{prefix}command"] = plan.get("command", "")
        facts[f"{prefix}protocol"] = PROTOCOLS[config["protocol"]]
        facts[f"{prefix}seeds"] = ", ".join(map(str, config["seeds"]))
        if "machine" in plan:
            facts[f"{prefix}machine"] = plan["machine"]
        facts[f"{prefix}config"] = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100)
    searches = [m for m in manifests if m["kind"] == "search"]
    if searches:
        minutes = sum(m["training_seconds"] for m in searches) / 60
        count = sum(m["outcome"]["trials"] for m in searches)
        facts["cost of the search"] = f"{count} trials in {len(searches)} searches, {minutes:.1f} worker-minutes"
    if manifests:
        versions = sorted({f"{k} {v}" for m in manifests for k, v in m.get("versions", {}).items()})
        training = sum(m.get("training_seconds", 0.0) for m in manifests)
        facts["versions"] = ", ".join([*versions, *sorted({p["versions"] for p in plans if "versions" in p})])
        facts["hardware"] = ", ".join(sorted({f"{m['device']} on {m['host']}" for m in manifests if "device" in m}))
        facts["time spent training"] = f"{training / 60:.1f} worker-minutes in {len(manifests)} stages"
    return {name: text for name, text in facts.items() if text}


def write_report(store: Store, results: pa.Table) -> str:
    """Rebuild ``report/`` in the store; returns the path of its page."""
    import pyarrow as pa

    from fusiondistill import report

    known = plans(store)
    seen = store.glance(MANIFEST, "metrics.*.parquet", "trials.*.parquet")
    tables: dict[str, Any] = {
        name: pa.Table.from_pylist(rows) if rows else None for name, rows in _stage_tables(seen, known).items()
    }
    methods, degradations = expected(known)
    with tempfile.TemporaryDirectory() as folder:
        files = report.write(
            folder, results, **tables, facts=_facts(seen, known), methods=methods, degradations=degradations
        )
        for path in files:
            store.write(path.read_bytes(), "report", path.relative_to(folder).as_posix())
    return store.shown("report", Path(files[0]).name)


def ranking(store: Store, directory: str) -> list[str]:
    """The trials of a search, best first, as lines for a terminal."""
    manifest = store.manifest_of(directory)
    assert manifest is not None
    rows = _parquet(store.read_from(directory, "trials.parquet")).to_pylist()
    names = list(manifest["spec"]["space"])
    lines = ["  ".join(["trial", f"{'validation':>10}", "epochs", *(f"{name:>18}" for name in names)])]
    for row in sorted(rows, key=lambda row: (row["validation"] is None, -(row["validation"] or 0), row["trial"])):
        accuracy = f"{100 * row['validation']:.2f} %" if row["validation"] is not None else "failed"
        values = [f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in names]
        lines.append(
            "  ".join([f"{row['trial']:5}", f"{accuracy:>10}", f"{row['epochs']:6}", *(f"{v:>18}" for v in values)])
        )
    return lines


def search_costs(store: Store, plan: Plan) -> list[str]:
    """What each search took, beside the rows that it found weights for."""
    lines = []
    for stage in plan.stages:
        if stage.kind == "search" and (manifest := store.manifest(stage)):
            outcome = manifest["outcome"]
            minutes = manifest["training_seconds"] / 60
            lines.append(
                f"search, seed {stage.seed}: {outcome['trials']} trials, {outcome['stopped']} stopped early, "
                f"{minutes:.1f} worker-minutes of training"
            )
    return lines


def status_lines(store: Store) -> list[str]:
    """What of each experiment is stored, under way (with its epoch), failed or missing."""
    lines = []
    store = store.glance(MANIFEST, PROGRESS, ERROR)
    for plan in plans(store):
        stages = plan["stages"]
        stored = {s["directory"] for s in stages if store.manifest_of(s["directory"])}
        lines.append(f"{plan['experiment']}: {len(stored)} of {len(stages)} stages stored in {store.location}")
        for stage in stages:
            directory = stage["directory"]
            if directory in stored:
                continue
            epochs, error = store.epochs_stored(directory), store.read_raw(directory, ERROR)
            if error:
                state = f"failed: {error.decode(errors='replace').splitlines()[-1]}"
            elif epochs:
                state = f"{epochs} epochs stored"
            else:
                state = "missing"
            lines.append(f"  {stage['name']}, seed {stage['seed']}: {state}")
    return lines
