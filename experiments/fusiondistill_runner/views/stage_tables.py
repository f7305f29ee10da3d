"""The report's tables beside the counts: training curves, trials, fusions, and how the experiment was run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from fusiondistill import NAME, safe_yaml
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.counting import counted
from fusiondistill.locations import side_by_side
from fusiondistill.merging import chosen_text
from fusiondistill.report.words import protocol_line
from fusiondistill_runner.searching.search_results import without_nothing
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.networks import left_over, networks
from fusiondistill_runner.views.sample_tables import ANSWER_SCHEMA, SAMPLE_SCHEMA, samples_and_answers
from fusiondistill_runner.views.timeline import SCHEMA, timeline
from fusiondistill_runner.views.unfinished import SCHEMA as UNFINISHED_SCHEMA
from fusiondistill_runner.views.unfinished import unfinished

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["counted_code", "facts", "made_by", "stage_tables"]

ALL = "all"
"""What stands for the degradation of a network that was trained on all of them."""


def stage_tables(store: Store, plans: Sequence[Mapping[str, Any]]) -> dict[str, pa.Table | None]:
    """The report's tables by the name of its arguments, None for an empty one.

    A stage that several experiments share stands under the first of them. For samples and answers see
    :mod:`views.sample_tables`, for the time line :mod:`views.timeline`, for missing stages :mod:`views.unfinished`.
    """
    found: dict[str, list[dict[str, Any]]] = {"curves": [], "trials": [], "importance": [], "fusion": [], "surface": []}
    manifests = cache(store.manifest_of)
    of_searches: dict[str, list[dict[str, Any]]] = {}
    seen = set()
    alike = {plan["experiment"]: _alike(plan) for plan in plans}
    for experiment, stage in ((plan["experiment"], stage) for plan in plans for stage in plan["stages"]):
        directory = stage["directory"]
        manifest = manifests(directory) if directory not in seen else None
        seen.add(directory)
        if manifest is None:
            continue
        common = {"experiment": experiment, "seed": stage["seed"]}
        if stage["kind"] == "train":
            found["curves"] += _curves(store, stage, common, manifest["spec"].get("select"))
        elif stage["kind"] == "search":
            rows = read_parquet(store.read_from(directory, "trials.parquet")).to_pylist()
            of_searches[directory] = rows
            found["trials"] += _trials(rows, manifest, common)
            importance = manifest["outcome"].get("importance") or {}
            shares = {**common, "r2": manifest["outcome"].get("importance_r2")}
            found["importance"] += [{**shares, "dimension": d, "value": float(v)} for d, v in importance.items()]
        elif stage["kind"] == "fuse":
            outcome, spec = manifest["outcome"], manifest["spec"]
            way = f" ({_way(spec)})" if stage["name"] in alike[experiment] else ""
            named = {**common, "stage": f"{stage['name']}{way}"}
            found["fusion"] += _fusion(outcome, named)
            found["surface"] += _surface(outcome.get("surface") or {}, named)

    def tables(directories: Sequence[str], name: str) -> list[Any]:
        return side_by_side(lambda directory: _readable(store, directory, name), directories)

    samples, answers = samples_and_answers(plans, manifests, tables)
    rows_of = {"samples": (samples, SAMPLE_SCHEMA), "answers": (answers, ANSWER_SCHEMA)}
    rows_of["timeline"] = (timeline(plans, manifests, of_searches), SCHEMA)
    rows_of["unfinished"] = (unfinished(store, plans, manifests), UNFINISHED_SCHEMA)
    typed = {name: _typed(rows, schema) for name, (rows, schema) in rows_of.items()}
    return {**{name: _table(rows) for name, rows in found.items()}, **typed}


def _alike(plan: Mapping[str, Any]) -> set[str]:
    """The names that several fuse stages of one seed have; a search chooses between them."""
    counted = Counter((stage["name"], stage["seed"]) for stage in plan["stages"] if stage["kind"] == "fuse")
    return {name for (name, _), count in counted.items() if count > 1}


def _way(spec: Mapping[str, Any]) -> str:
    """How a fuse stage merged, from its spec: method, its parameters, and BatchNorm's statistics."""
    given = (f"{name} {value}" for name, value in (spec.get("parameters") or {}).items())
    return ", ".join([spec["merge"], *given, spec["recalibrate"]])


def _readable(store: Store, directory: str, name: str) -> Any:
    """The table in a committed file; None for a damaged file, which the next run makes again."""
    try:
        return read_parquet(store.read_from(directory, name))
    except CheckpointError:
        return None


def _fusion(outcome: Mapping[str, Any], named: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each merged network; its distance is null where the networks did not start from one network."""
    distances = outcome.get("distance") or dict.fromkeys(outcome["expert_loss"])
    row = {**named, "barrier": outcome["barrier"], "chosen": chosen_text(outcome.get("chosen") or {})}
    return [{**row, "degradation": name or ALL, "distance": value} for name, value in distances.items()]


def _surface(of_experts: Mapping[str, Sequence[Any]], named: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**named, "degradation": degradation or ALL, "alpha": float(alpha), "loss": float(loss)}
        for degradation, points in of_experts.items()
        for alpha, loss in points
    ]


def _typed(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, str]) -> pa.Table | None:
    """Rows as a table of these columns and types; None without rows."""
    import pyarrow as pa

    kinds = {name: pa.type_for_alias(kind) for name, kind in schema.items()}
    return (
        pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()}) if rows else None
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table | None:
    """Rows as a table, null where a row lacks a column; None without rows."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names}) if rows else None


_CURVES = ("loss", "train_accuracy")


def _curves(
    store: Store, stage: Mapping[str, Any], common: Mapping[str, Any], select: str | None
) -> list[dict[str, Any]]:
    """The metrics of a training by epoch. The accuracy that chose the epoch is named after its split."""
    judged = "test_accuracy" if select == "test" else "validation_accuracy"
    rows = read_parquet(store.read_from(stage["directory"], "metrics.parquet")).to_pylist()
    curves = []
    for row in rows:
        values = {name: row[name] for name in _CURVES}
        if row.get("validation") is not None:
            values[judged] = row["validation"]
        point = {**common, "stage": stage["name"], "epoch": int(row["epoch"])}
        curves += [{**point, "name": n, "value": float(v)} for n, v in values.items()]
    return curves


def _trials(
    rows: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any], common: Mapping[str, Any]
) -> list[dict[str, Any]]:
    keep = ("epochs", "seeds", "validation", "stopped", *manifest["spec"]["space"], "fusion.method", "start.merge")
    return [{**common, "trial": str(row["trial"]), **{name: row[name] for name in keep if name in row}} for row in rows]


def facts(store: Store, plans: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What a reader needs to run the experiments again, and where they ran: name -> text, in the order to show."""
    said: dict[str, str] = {}
    directories = dict.fromkeys(stage["directory"] for plan in plans for stage in plan["stages"])
    manifests = {directory: manifest for directory in directories if (manifest := store.manifest_of(directory))}
    others = left_over(store, plans)
    for plan in plans:
        prefix = f"{plan['experiment']}: " if len(plans) > 1 else ""
        config = plan["config"]
        said[f"{prefix}command"] = plan.get("command", "")
        said[f"{prefix}protocol"] = (
            f"{config['protocol']}: {protocol_line(config['protocol'], config.get('select') or '')}"
        )
        said[f"{prefix}seeds"] = ", ".join(map(str, config["seeds"]))
        said[f"{prefix}data"] = _data(config, [manifests.get(stage["directory"]) for stage in plan["stages"]])
        said[f"{prefix}started on"] = plan.get("machine", "")
        said[f"{prefix}normalisation"] = plan.get("normalisation", "")
        said[f"{prefix}networks"] = _networks(plan, others)
        content = without_nothing(plan.get("content") or {})
        said[f"{prefix}config"] = safe_yaml.write(content)
    return {name: text for name, text in {**said, **_of_stages(list(manifests.values()), plans)}.items() if text}


def _networks(plan: Mapping[str, Any], others: Mapping[str, Sequence[str]]) -> str:
    """The directory of each network of the table, and those of the same names that are none of its."""
    lines = [f"{label}: {directory}" for label, _, _, directory in networks(plan)]
    names = dict.fromkeys(name for _, name, _, _ in networks(plan))
    return "\n".join(
        lines + [f"{name}, of other settings: {', '.join(others[name])}" for name in names if name in others]
    )


def _data(config: Mapping[str, Any], manifests: Sequence[Mapping[str, Any] | None]) -> str:
    """The data set and its fingerprint."""
    specs = [manifest["spec"] for manifest in manifests if manifest]
    found = {spec.get("train", spec)["data"]["fingerprint"] for spec in specs}
    return ", fingerprint ".join([config["data"]["name"], *sorted(found)])


def _of_stages(manifests: Sequence[Mapping[str, Any]], plans: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Versions, hardware and cost, as the stages noted them."""
    said = {}
    searches = [m for m in manifests if m["kind"] == "search"]
    if searches:
        minutes = sum(m["training_seconds"] for m in searches) / 60
        count = sum(m["outcome"]["trials"] for m in searches)
        said["cost of the search"] = (
            f"{counted(count, 'trial')} in {counted(len(searches), 'search')}, {minutes:.1f} worker-minutes"
        )
    if manifests:
        versions = sorted({f"{k} {v}" for m in manifests for k, v in m.get("versions", {}).items()})
        trainings = [m for m in manifests if m["kind"] == "train"]
        training = sum(m.get("training_seconds", 0.0) * m["spec"].get("world_size", 1) for m in trainings)
        said["code"] = made_by(counted_code(manifests))
        said["versions"] = ", ".join([*versions, *sorted({p["versions"] for p in plans if "versions" in p})])
        said["hardware"] = "; ".join(sorted({_hardware(m) for m in manifests if "device" in m}))
        fed = Counter(m["images_in"] for m in trainings if "images_in" in m)
        said["training images"] = ", ".join(
            f"in {place} ({counted(count, 'training')})" for place, count in sorted(fed.items())
        )
        said["memory layout"] = _layouts(trainings)
        besides = ", beside those of the search" if searches else ""
        said["time spent training"] = (
            f"{training / 60:.1f} worker-minutes in {counted(len(trainings), 'training')}{besides}"
        )
    return said


def counted_code(manifests: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Version of the code, in words -> number of these stages that it made. Older manifests name no version."""
    codes = (manifest.get("code") for manifest in manifests)
    return Counter(f"{NAME} {code['version']} ({code['digest'][:8]})" for code in codes if code)


def made_by(codes: Mapping[str, int]) -> str:
    """Which code made the stages, in words; empty where no manifest names it."""
    if len(codes) < 2:
        return "".join(codes)
    each = ", ".join(f"{code} made {counted(count, 'stage')}" for code, count in sorted(codes.items()))
    return f"made by {len(codes)} versions of the code: {each}"


def _layouts(trainings: Sequence[Mapping[str, Any]]) -> str:
    """The memory layouts of trainings; which training had which, where a table mixes them."""
    found: dict[str, dict[tuple[str, int], None]] = {}
    for one in trainings:
        last = one.get("channels_last", (one.get("recipe") or {}).get("channels_last"))  # older ones took the recipe's
        if isinstance(last, bool):
            found.setdefault("channels last" if last else "channels first", {})[one["name"], one["seed"]] = None
    if len(found) < 2:
        return "".join(found)
    times = Counter(name for which in found.values() for name, _ in which)
    each = "; ".join(
        f"{layout}: {', '.join(name if times[name] == 1 else f'{name} (seed {seed})' for name, seed in which)}"
        for layout, which in sorted(found.items())
    )
    return f"two layouts, which differ by rounding: {each}"


def _hardware(manifest: Mapping[str, Any]) -> str:
    """The device and the machine that a stage ran on."""
    around = f" ({manifest['processor']}, {manifest['cores']} cores)" if "processor" in manifest else ""
    return f"{manifest['device']} on {manifest['host']}{around}"
