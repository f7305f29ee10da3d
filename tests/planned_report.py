"""The report as a run calls it: with a plan that says what the rows are. For tests that have counts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from fusiondistill import report
from fusiondistill.report import published
from fusiondistill.report.groups import Group
from fusiondistill.report.methods import COLUMNS, Method, Methods, methods_of

__all__ = ["ABOUT", "EVERY", "described", "method", "overview_lines", "plan_of", "published", "summarise",
           "table_lines", "write"]  # fmt: skip

_FOUR = {"jpeg": "JPEG", "blur": "Blur", "noise": "Noise", "saltpepper": "Salt+pepper"}
_ALL = {"form": "all", "parameters": 78_042, "passes": 1}
_ROWS: list[dict[str, Any]] = [
    {"id": "base", "title": "Base", "form": "clean", "start": "random", "parameters": 78_042, "passes": 1},
    {"id": "oracle", "title": "Oracle", "form": "combined", "of": "expert", "told": True},
    {"id": "ensemble", "title": "Ensemble", "form": "combined", "of": "expert", "passes": 4},
    {"id": "scratch", "title": "Scratch", "start": "random", **_ALL},
    {"id": "vanilla", "title": "Vanilla", "start": "base", **_ALL},
    {"id": "modelsoups", "title": "ModelSoups", "form": "merged", "of": "expert"},
    {"id": "modelsoups-told", "title": "ModelSoups (told)", "form": "merged", "of": "expert", "told": True},
    {"id": "fusing", "title": "Fusing", "start": "modelsoups", **_ALL},
    {"id": "fusiondistill", "title": "FusionDistill", "start": "modelsoups", "teachers": "expert", **_ALL},
    {"id": "fusiondistill-searched", "title": "FusionDistill (searched)", "start": "modelsoups", "teachers": "expert",
     "searched": "fusiondistill", **_ALL},
    *({"id": f"expert-{name}", "title": f"Expert: {title}", "form": "each", "of": "expert", "own": name,
       "start": "base"} for name, title in _FOUR.items()),
]  # fmt: skip
ABOUT: list[dict[str, Any]] = [
    {**dict.fromkeys(("form", "of", "own", "start", "teachers", "searched"), ""), "told": False, "parameters": 78_042,
     "passes": 1, "description": f"what {row['title']} is", **row}
    for row in _ROWS
]  # fmt: skip
"""The rows of the paper as a plan describes them."""
EVERY: Methods = methods_of({"methods": ABOUT})


def method(name: str) -> Method:
    return EVERY[name]


def described(planned: pa.Table) -> pa.Table:
    """A table of planned figures with what its rows are, where it does not say so itself."""
    methods = [EVERY[name] for name in planned["method"].to_pylist()]
    for name, kind in COLUMNS.items():
        if name not in planned.column_names:
            values = [getattr(method, name) for method in methods]
            planned = planned.append_column(name, pa.array(values, pa.type_for_alias(kind)))
    return planned


def plan_of(results: pa.Table) -> pa.Table:
    """What must have been planned for these counts: all of a row's degradations for all seeds of its table."""
    group = ("experiment", "dataset", "model", "protocol")
    rows = results.to_pylist()
    seeds: dict[Any, set[int]] = {}
    cells: dict[Any, dict[str, Any]] = {}
    for row in rows:
        seeds.setdefault(tuple(row[name] for name in group), set()).add(row["seed"])
    for row in rows:
        key = tuple(row[name] for name in group)
        for seed in sorted(seeds[key]):
            cell = {name: row[name] for name in (*group, "method", "degradation")}
            cell |= {"kind": row.get("kind") or "trained", "seed": seed, "complete": True}
            cells.setdefault((*key, row["method"], row["degradation"], seed), cell)
    names = {**dict.fromkeys((*group, "method", "degradation", "kind"), "string"), "seed": "int64", "first": "int64",
             "last": "int64", "complete": "bool"}  # fmt: skip
    types = {name: pa.type_for_alias(kind) for name, kind in names.items()}
    return pa.table({n: pa.array([cell.get(n) for cell in cells.values()], kind) for n, kind in types.items()})


def _given(results: pa.Table, given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "planned": described(plan_of(results) if given.get("planned") is None else given["planned"])}


def write(directory: Any, results: pa.Table, **given: Any) -> list[Path]:
    return report.write(directory, results, **_given(results, given))


def summarise(results: pa.Table, **given: Any) -> list[Group]:
    return report.summarise(results, **_given(results, given))


def table_lines(results: pa.Table, **given: Any) -> list[str]:
    return report.table_lines(results, **_given(results, given))


def overview_lines(results: pa.Table, **given: Any) -> list[str]:
    return report.overview_lines(results, **_given(results, given))
