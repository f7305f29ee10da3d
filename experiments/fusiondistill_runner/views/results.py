"""Views of a store: the results table, the paired tests and the report, rebuilt from committed stages alone."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill.checkpoints import MANIFEST, CheckpointError
from fusiondistill.report.methods import COLUMNS as ABOUT
from fusiondistill.report.methods import methods_of
from fusiondistill_runner.storage.best import FACTS, forget_best, has_best, noted_best
from fusiondistill_runner.storage.noted_plans import plans
from fusiondistill_runner.storage.parquet import parquet_bytes, read_parquet
from fusiondistill_runner.storage.store import ERROR, PROGRESS, Store
from fusiondistill_runner.views.answers import Answers, answers_of, classes_table
from fusiondistill_runner.views.best import judged_table, keep_choice
from fusiondistill_runner.views.class_tables import class_tables
from fusiondistill_runner.views.comparisons import comparisons_table
from fusiondistill_runner.views.costs import costs_table
from fusiondistill_runner.views.data_names import group_names
from fusiondistill_runner.views.routing import routing_table
from fusiondistill_runner.views.settings import settings
from fusiondistill_runner.views.shares import Shares
from fusiondistill_runner.views.stage_tables import facts, stage_tables
from fusiondistill_runner.views.sweep_axes import axes_table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "choice_lines", "kept_table", "planned_table", "report_tables", "results_table", "table_lines", "write_report",
    "write_results",
]  # fmt: skip


Plans = Sequence[Mapping[str, Any]]
"""What :func:`storage.noted_plans.plans` gives. Where an argument ``known`` is None, the plans are read anew."""
_TEXT = ("experiment", "method", "model", "dataset", "protocol", "degradation", "kind", "stage", "precision",
         "select", "training", "deviations", "entry", "means", "said", "size")  # fmt: skip
_FRACTIONS = ("nll", "ece", "balanced")
_COLUMNS = (
    "experiment", "method", "model", "seed", "dataset", "protocol", "degradation", "kind", "level", "right", "seen",
    "nll", "ece", "stage", "balanced", "majority", "said", "said_times",
)  # fmt: skip
_PLANNED = (*_COLUMNS[: _COLUMNS.index("level")], *ABOUT, "first", "last", "listed", "complete", "precision",
            "select", "training", "deviations", "entry", "means", "said", "size")  # fmt: skip


def results_table(
    store: Store, plans: Sequence[Mapping[str, Any]], answers: Mapping[str, Answers] | None = None
) -> pa.Table:
    """One row per stored (method, seed, degradation, level): counts, never percentages.

    These columns are null where a stage has none:

    - nll: mean negative log-likelihood, in nats; ece: expected calibration error, a fraction.

    These come from ``answers`` (of :func:`views.answers.answers_of`) and are null without:

    - balanced: balanced accuracy, the mean over the classes of the test images, a fraction;
    - majority: number of images of the largest class;
    - said, said_times: the class that was named most often, and how often.
    """
    rows: list[dict[str, Any]] = []
    read: dict[str, list[dict[str, Any]]] = {}
    for names, piece in _pieces(plans):
        directory = piece["directory"]
        if directory not in read:
            of_levels = answers[directory].of_levels() if answers and directory in answers else {}
            read[directory] = [{**row, **of_levels.get(row["level"], {})} for row in _counts(store, directory)]
        rows += [{**names, **counted, "stage": directory} for counted in read[directory]]
    return _table(_COLUMNS, rows)


def planned_table(plans: Sequence[Mapping[str, Any]], results: pa.Table) -> pa.Table:
    """One row per planned (method, seed, degradation): its levels, and whether all of it is stored.

    - first, last: the degradation's integer levels, null where the plan does not say; listed: all of them, where some
      between are none;
    - complete: nothing is missing;
    - precision: of the evaluation;
    - select, training, deviations: see :mod:`views.settings`;
    - entry, means, said, size: what a level is, on images of which size.

    The columns of :data:`fusiondistill.report.methods.COLUMNS` describe the row's method.
    """
    stored = set(results["stage"].to_pylist())
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}
    spans = {plan["experiment"]: plan.get("levels") or {} for plan in plans}
    said = {
        plan["experiment"]: {
            "precision": plan["config"]["evaluation"].get("precision"),
            "size": " x ".join(map(str, plan.get("size") or ())),
            **settings(plan),
        }
        for plan in plans
    }
    degradations = {plan["experiment"]: plan.get("degradations") or {} for plan in plans}
    methods = {plan["experiment"]: methods_of(plan) for plan in plans}
    for names, piece in _pieces(plans):
        first, last = spans[names["experiment"]].get(names["degradation"]) or (None, None)
        about = methods[names["experiment"]][names["method"]]
        more = {"first": first, "last": last, "complete": True, **said[names["experiment"]]}
        shown = (degradations[names["experiment"]].get(names["degradation"])) or {}
        more |= {"entry": shown.get("name"), **{key: shown.get(key) for key in ("means", "said", "listed")}}
        more |= {name: getattr(about, name) for name in ABOUT}
        cell = cells.setdefault(tuple(names.values()), {**names, **more})
        cell["complete"] = cell["complete"] and piece["directory"] in stored
    return _table(_PLANNED, list(cells.values()))


def _pieces(plans: Sequence[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Every piece of every plan, with the columns that name its experiment, method, seed and degradation."""
    for plan in plans:
        common = group_names(plan)
        for piece in plan["rows"]:
            own = {name: piece[name] for name in ("method", "seed", "degradation")}
            yield {**common, "kind": piece.get("kind") or "trained", **own}, piece


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    def kind(name: str) -> pa.DataType:
        if name in _TEXT or name in ABOUT:
            return pa.type_for_alias(ABOUT.get(name, "string"))
        if name == "listed":
            return pa.list_(pa.int64())
        return pa.float64() if name in _FRACTIONS else pa.bool_() if name == "complete" else pa.int64()

    return pa.table({name: pa.array([row.get(name) for row in rows], kind(name)) for name in columns})


def _counts(store: Store, directory: str) -> list[dict[str, Any]]:
    if store.manifest_of(directory) is None:
        return []
    rows: list[dict[str, Any]] = read_parquet(store.read_from(directory, "counts.parquet")).to_pylist()
    return rows


def write_results(store: Store, known: Plans | None = None) -> pa.Table:
    """Write each table of :func:`rebuilt` as ``<name>.parquet`` into the store; returns the results."""
    tables = rebuilt(store, known)
    for name, table in tables.items():
        store.write(parquet_bytes(table), f"{name}.parquet")
    return tables["results"]


def rebuilt(store: Store, known: Plans | None = None) -> dict[str, pa.Table]:
    """Results, paired tests, shares of the oracle's gain, what was said class by class and by routers, and costs.

    Made of the store's stages; writes nothing. Without a router there is no table of what it said.
    """
    known = plans(store) if known is None else known
    seen = store.glance(MANIFEST, "counts.*.parquet", "images.*.parquet", "metrics.*.parquet", "trials.*.parquet",
                        "routes.*.parquet")  # fmt: skip
    answers = answers_of(seen, known, kept_table(store, "classes"))
    shares, routing = Shares(kept_table(store, "shares")), routing_table(seen, known)
    return {
        "results": results_table(seen, known, answers),
        "comparisons": comparisons_table(seen, known, kept_table(store, "comparisons"), shares.add),
        "classes": classes_table(known, answers),
        "costs": costs_table(seen, known),
        "shares": shares.table(),
        **({"routing": routing} if routing is not None else {}),
    }


def kept_table(store: Store, name: str) -> pa.Table | None:
    """A table of the store as it was last computed, or None; a damaged file is computed again."""
    import pyarrow as pa

    data = store.read_raw(f"{name}.parquet")
    try:
        return read_parquet(data) if data is not None else None
    except (pa.ArrowException, OSError, ValueError):
        return None


def _of_tables(store: Store, plans: Sequence[Mapping[str, Any]], results: pa.Table) -> dict[str, Any]:
    """The tables of a terminal beside the counts."""
    kept = {name: kept_table(store, name) for name in ("comparisons", "shares", "routing")}
    return {"planned": planned_table(plans, results), **kept}


_SHOWN = 4  # experiments whose tables are shown on a terminal, each in full


def table_lines(
    store: Store, results: pa.Table, experiments: Collection[str] | None = None, known: Plans | None = None
) -> list[str]:
    """The tables for a terminal, with gaps where results are missing.

    Args:
        experiments: show only these; for more than four, only the overview.
    """
    from fusiondistill import report

    known = plans(store) if known is None else known
    tables: dict[str, Any] = _of_tables(store, known, results)
    if experiments is None:
        return report.table_lines(results, **tables)
    sweeps = {plan["sweep"] for plan in known if plan.get("sweep") and plan["experiment"] in experiments}
    results, tables["planned"] = _only(results, experiments), _only(tables["planned"], experiments)
    tables["comparisons"] = _only(tables["comparisons"], {*experiments, *sweeps})
    tables |= {name: _only(tables[name], experiments) for name in ("shares", "routing")}
    if len(set(experiments)) <= _SHOWN:
        return report.table_lines(results, **tables)
    return [*report.overview_lines(results, **tables), "", f"tables: {store.shown('report', 'table.md')}"]


def choice_lines(
    store: Store, results: pa.Table, experiments: Collection[str] | None = None, known: Plans | None = None
) -> list[str]:
    """Choose the best single network, lay it under its stable name, and say what it is and how it is used.

    Args:
        experiments: those of this run; None: all of the store.
    """
    import pyarrow as pa

    from fusiondistill.report import choice, described, summarise

    known = plans(store) if known is None else known
    planned = planned_table(known, results)
    groups, methods = summarise(results, planned=planned), described(planned)
    seen = store.glance(MANIFEST, FACTS)
    judged = judged_table(seen, known)
    lost: list[str] = []
    try:
        if keep_choice(store, choice.choices(judged, groups, methods), experiments, seen=seen):
            seen = store.glance(MANIFEST, FACTS)
            judged = judged_table(seen, known)
    except CheckpointError as error:
        lost = ["", f"The best network is not kept: {error}; the next run makes it again"]
    noted = noted_best(seen) or {}
    if experiments is not None and has_best(seen) and noted.get("stage") not in judged["network"].to_pylist():
        forget_best(store)  # a run of the same experiment in another way has no such network any more
    if experiments is not None:
        # Other experiments of the store stay beside those of this run where all can be compared.
        rows = judged.to_pylist()
        ours = {one["same"] for one in rows if one["experiment"] in experiments} - {None}
        kept = [one["same"] in ours or (one["why"] and one["experiment"] in experiments) for one in rows]
        judged = judged.filter(pa.array(kept, pa.bool_()))
    return [*choice.choice_lines(choice.choices(judged, groups, methods), judged), *lost]


def _only(table: pa.Table | None, experiments: Collection[str]) -> pa.Table | None:
    """The rows of these experiments."""
    import pyarrow as pa

    if table is None:
        return None
    return table.filter(pa.array([name in experiments for name in table["experiment"].to_pylist()], pa.bool_()))


def report_tables(
    store: Store, results: pa.Table, given: Mapping[str, pa.Table] | None = None, known: Plans | None = None
) -> dict[str, Any]:
    """The report's tables beside the results.

    Args:
        given: what :func:`rebuilt` gave; None: it is read from the store, where :func:`write_results` left it.
    """
    known = plans(store) if known is None else known
    seen = store.glance(MANIFEST, "metrics.*.parquet", "trials.*.parquet", PROGRESS, ERROR, FACTS)
    names = ("comparisons", "costs", "classes", "shares", "routing")
    own = {name: given.get(name) if given else kept_table(store, name) for name in names}
    own |= {"planned": planned_table(known, results), "judged": judged_table(seen, known)}
    own |= class_tables(seen, known, results, **{name: own[name] for name in ("planned", "judged", "classes")})
    return {**own, **stage_tables(seen, known), "axes": axes_table(known), "facts": facts(seen, known)}


def write_report(store: Store, results: pa.Table, known: Plans | None = None) -> str:
    """Rebuild ``report/`` in the store, and the confusions that it shows; returns the path of its page."""
    from fusiondistill import report

    with tempfile.TemporaryDirectory() as folder:
        tables = report_tables(store, results, known=known)
        files = report.write(folder, results, **tables)
        for path in files:
            store.write(path.read_bytes(), "report", path.relative_to(folder).as_posix())
        _forget_figures(store, {path.name for path in files})
    if tables["confusions"] is not None:
        store.write(parquet_bytes(tables["confusions"]), "confusions.parquet")
    return store.shown("report", Path(files[0]).name)


def _forget_figures(store: Store, kept: Collection[str]) -> None:
    """Delete the figures of an earlier report that this one does not have."""
    from pyarrow import fs

    found = store.filesystem.get_file_info(fs.FileSelector(store.path("report", "figures"), allow_not_found=True))
    for info in found:
        if info.is_file and info.base_name.endswith((".png", ".svg")) and info.base_name not in kept:
            store.filesystem.delete_file(info.path)
