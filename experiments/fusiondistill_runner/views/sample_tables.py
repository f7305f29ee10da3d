"""Real test images under each degradation and the methods' answers for them, as the report's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fusiondistill.report.methods import Method, base_of, final_of, methods_of
from fusiondistill_runner.views.timeline import Manifests

__all__ = ["ANSWER_SCHEMA", "SAMPLE_SCHEMA", "samples_and_answers", "shown_plans"]

SAMPLES, PREDICTIONS = "samples.parquet", "predictions.parquet"
EXPERIMENTS = 4
"""The most experiments that show images: a page for all points of a sweep would be too large to send."""
_NAMED = {**dict.fromkeys(("experiment", "degradation"), "string"), **dict.fromkeys(("level", "index"), "int64")}
SAMPLE_SCHEMA = {**_NAMED, "label": "string", "image": "binary"}
ANSWER_SCHEMA = {**_NAMED, "method": "string", "said": "string"}

Rows = list[dict[str, Any]]
Tables = Callable[[Sequence[str], str], Sequence[Any]]
"""(stage directories, name of a file) -> the table in that file of each, None for one that cannot be read."""


def samples_and_answers(plans: Sequence[Mapping[str, Any]], manifests: Manifests, tables: Tables) -> tuple[Rows, Rows]:
    """Stored test images (from the first method of an experiment that has them), and the methods' answers for each.

    The methods are the base, each degradation's own expert, and the rows that were trained on all degradations from a
    trained start, with their first seed. At most four experiments are shown; those that differ in data or protocol come
    first.

    Args:
        plans: as a store holds them.
        manifests: of the stored stages, by directory.
        tables: reads files of stages.
    """
    samples: Rows = []
    answers: Rows = []
    for plan in shown_plans(plans):
        pieces = _pieces(plan, manifests)
        own = {"experiment": plan["experiment"]}
        shown: dict[tuple[str, int], list[int]] = {}
        pictures = [of[0] for of in _by_levels(p for p in pieces if SAMPLES in p["manifest"]["files"]).values()]
        for piece, table in _read(tables, pictures, SAMPLES):
            for row in table.to_pylist():
                place = (piece["degradation"], row["level"])
                shown.setdefault(place, []).append(row["index"])
                label = piece["classes"][row.pop("label")]
                samples.append({**own, "degradation": place[0], **row, "label": label})
        asked = [p for p in pieces if any((p["degradation"], level) in shown for level in p["levels"])]
        for piece, table in _read(tables, asked, PREDICTIONS):
            named = {**own, "degradation": piece["degradation"], "method": piece["method"]}
            answers += [{**named, **said} for said in _said(piece, table, shown)]
    return samples, answers


def shown_plans(plans: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most four experiments, one of each data set and protocol before a second, in the order of the plans."""
    first: list[Mapping[str, Any]] = []
    more: list[Mapping[str, Any]] = []
    seen = set()
    for plan in plans:
        kind = (str(plan["config"]["data"]), plan["config"]["protocol"])
        (more if kind in seen else first).append(plan)
        seen.add(kind)
    kept = [*first, *more][:EXPERIMENTS]
    return [plan for plan in plans if plan in kept]


def _pieces(plan: Mapping[str, Any], manifests: Manifests) -> Rows:
    """The stored evaluations of an experiment's first seed whose answers are shown, methods in order."""
    wanted = [row for row in plan["rows"] if row["seed"] == plan["config"]["seeds"][0]]
    methods = methods_of(plan).sorted(row["method"] for row in wanted)
    own = {method.id: method.own for method in methods if method.own}
    kept = [m for m in methods if m is base_of(methods) or m is final_of(methods) or _trained(m)]
    order = {method.id: place for place, method in enumerate(kept)}
    found = []
    for row in wanted:
        manifest = manifests(row["directory"])
        named = row["method"] in order or own.get(row["method"]) == row["degradation"]
        if not named or manifest is None or PREDICTIONS not in manifest["files"]:
            continue
        model = next((manifests(needed) for needed in manifest["inputs"].values()), None) or {}
        if classes := model.get("card", {}).get("classes"):
            found.append({**row, "manifest": manifest, "levels": manifest["spec"]["levels"], "classes": classes})
    return sorted(found, key=lambda row: order.get(row["method"], 0.5))


def _trained(method: Method) -> bool:
    """Whether a row was trained on all degradations from a trained start."""
    return method.form == "all" and method.start != "random"


def _by_levels(pieces: Iterable[dict[str, Any]]) -> dict[tuple[str, tuple[int, ...]], Rows]:
    """Pieces by degradation and levels: those of a key hold the same images."""
    found: dict[tuple[str, tuple[int, ...]], Rows] = {}
    for piece in pieces:
        found.setdefault((piece["degradation"], tuple(piece["levels"])), []).append(piece)
    return found


def _read(tables: Tables, pieces: Sequence[dict[str, Any]], name: str) -> Iterator[tuple[dict[str, Any], Any]]:
    found = tables([piece["directory"] for piece in pieces], name)
    return ((piece, table) for piece, table in zip(pieces, found, strict=True) if table is not None)


def _said(
    piece: Mapping[str, Any], table: Any, shown: Mapping[tuple[str, int], Sequence[int]]
) -> Iterator[dict[str, Any]]:
    """A method's answers for the images that are shown."""
    for i, level in enumerate(table["level"].to_pylist()):
        indices = shown.get((piece["degradation"], level), ())
        predictions = table["predictions"][i].values if indices else ()
        for index in indices:
            if index < len(predictions):
                said = piece["classes"][predictions[index].as_py()]
                yield {"level": level, "index": index, "said": said}
