"""Paired tests of one method between the points of a sweep, where the points were evaluated on the same images."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusiondistill.report.methods import Method, methods_of, ours_of
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.correctness import Correctness, Evaluated, Pieces, correctness, evaluated
from fusiondistill_runner.views.data_names import data_name

__all__ = ["MOST", "Sweep", "compared", "rests_on", "sweeps"]

MOST = 499  # pairs of a sweep: Holm over more could establish nothing with p-values of 10,000 draws


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep that may be compared: the same test images, degradations, levels and protocol.

    Attributes:
        names: dataset, model ("" where the points differ in it) and protocol.
        points: name of a point -> its stored results of the compared methods.
        pairs: (a, b), each "<point> <method>".
        digest: of everything that the tests are computed from.
    """

    name: str
    names: Mapping[str, str]
    points: Mapping[str, Evaluated]
    pairs: Sequence[tuple[str, str]]
    digest: str

    def correctness(self, store: Store) -> Correctness:
        """Point and method, "<point> <method>" -> seed -> each image's correctness."""
        read = {point: correctness(store, of) for point, of in self.points.items()}
        return {f"{point} {method}": by_seed for point, of in read.items() for method, by_seed in of.items()}


def sweeps(store: Store, plans: Sequence[Mapping[str, Any]]) -> list[Sweep]:
    """The sweeps among the plans (field ``sweep``), one entry for each set of points that may be compared.

    The rows of :func:`compared` are compared in their order, while there are at most :data:`MOST` pairs. Points that
    share the stages of a row are no pair, and each comparison of stages counts once.
    """
    alike: dict[tuple[str, str], list[tuple[Mapping[str, Any], Evaluated]]] = {}
    for plan in plans:
        if not plan.get("sweep"):
            continue
        known, methods = evaluated(store, plan), compared([plan])
        known = replace(known, pieces={key: of for key, of in known.pieces.items() if key[0] in methods})
        if known.pieces:
            alike.setdefault((plan["sweep"], _images(store, known)), []).append((plan, known))
    return [_sweep(name, points) for (name, _), points in alike.items() if len(points) > 1]


def compared(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows of these plans that are compared between points: trained on all degradations or merged, not told.

    Rows with teachers come first, in the order of the table. The others follow in reverse order, those that start from
    random weights last.
    """
    found: dict[str, Method] = {}
    for plan in plans:
        found |= {m.id: m for m in methods_of(plan).known.values() if m.form in ("all", "merged") and not m.told}
    ours = ours_of(sorted(found.values(), key=lambda method: method.rank))
    others = [method for method in found.values() if method not in ours]
    others.sort(key=lambda method: (method.start == "random", -method.order))
    return [method.id for method in (*ours, *others)]


def rests_on(a: Pieces, b: Pieces) -> tuple[str, str] | None:
    """The stages behind each side of a comparison, over the seeds that both have; None where both are the same.

    Comparisons that rest on the same two sets of stages, in either order, are one test.
    """
    seeds = sorted(a.keys() & b.keys())
    ours, theirs = (json.dumps([[seed, of[seed]] for seed in seeds], sort_keys=True) for of in (a, b))
    return (ours, theirs) if seeds and ours != theirs else None


def _sweep(name: str, points: Sequence[tuple[Mapping[str, Any], Evaluated]]) -> Sweep:
    config = points[0][0]["config"]
    models = {plan["config"]["model"]["name"] for plan, _ in points}
    known = {plan["experiment"].removeprefix(f"{name}."): of for plan, of in points}
    pairs: list[tuple[str, str]] = []
    for method in compared([plan for plan, _ in points]):
        rows = {point: of.of_method(method) for point, of in known.items()}
        distinct: dict[frozenset[str], tuple[str, str]] = {}
        for a, b in itertools.combinations(known, 2):
            if stages := rests_on(rows[a], rows[b]):
                distinct.setdefault(frozenset(stages), (f"{a} {method}", f"{b} {method}"))
        if len(pairs) + len(distinct) <= MOST:
            pairs += distinct.values()
    content = json.dumps([pairs, [[point, of.digest] for point, of in known.items()]])
    return Sweep(
        name=name,
        names={
            "dataset": data_name(config),
            "model": models.pop() if len(models) == 1 else "",
            "protocol": config["protocol"],
        },
        points=known,
        pairs=pairs,
        digest=hashlib.sha256(content.encode()).hexdigest(),
    )


def _images(store: Store, known: Evaluated) -> str:
    """The test images, degradations and levels of a point's figures, as a key."""
    first = next(iter(known.pieces.values()))
    said: dict[str, Any] = {}
    for name, directories in first.items():
        specs = [manifest["spec"] for directory in directories if (manifest := store.manifest_of(directory))]
        data = [specs[0]["data"][key] for key in ("name", "fingerprint", "test_images")]
        levels = sorted(level for spec in specs for level in spec["levels"])
        shown = [specs[0]["degradation"], specs[0].get("settings")]
        said[name] = [data, shown, specs[0]["protocol"], specs[0]["noise_seed"], levels, known.spans.get(name)]
    return json.dumps(said, sort_keys=True)
