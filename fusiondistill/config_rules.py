"""Rules between the keys of a config, checked on the raw content so that they speak up beside other mistakes."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fusiondistill.config import SECTIONS, Config
from fusiondistill.degradation_config import ids_in, problems_of_ids
from fusiondistill.degradations import DEGRADATIONS, PAPER_DEGRADATIONS
from fusiondistill.methods import Trained, chooses, needed_methods
from fusiondistill.protocols import PROTOCOLS, Protocol
from fusiondistill.recipes import PRETRAINED
from fusiondistill.registry import close_to
from fusiondistill.resolution import Table, default_methods, resolve, where
from fusiondistill.resolution_rules import problems_of_table, way_of
from fusiondistill.safe_yaml import Location, mapping
from fusiondistill.search_rules import check_searches

__all__ = ["cross_check", "layer_problems"]

Problem = tuple[Location, str]


def cross_check(raw: dict[str, Any]) -> Iterable[Problem]:
    """Rules between keys. They read the raw content, so that they speak up beside other mistakes."""
    protocol = PROTOCOLS.get(str(raw.get("protocol") or "standard"), PROTOCOLS["standard"])
    table = resolve(raw)
    yield from _check_data(raw)
    if raw.get("search") and not protocol.searches:
        yield ("search",), "not under protocol paper: it has no validation split of its own for a search to look at"
    if raw.get("select") == "test" and protocol.select != "test":
        yield ("select",), "test is a leak, admitted under protocol: paper only"
    yield from problems_of_table(table, raw, SECTIONS)
    yield from _check_rows(raw, table)
    yield from _check_names(raw)
    yield from _check_validation(raw, protocol, table)
    yield from check_searches(raw, table)
    yield from _check_checkpoints(raw, table)
    yield from _check_tracking(raw)
    left = raw.get("fusion")
    for key in left if isinstance(left, dict) else ():
        yield ("fusion", key), "unknown key; what was fusion: is modelsoups.start now"
    if left is not None and not isinstance(left, dict):
        yield ("fusion",), "what was fusion: is modelsoups.start now, a mapping like {merge: ties, of: expert}"
    gpus = at(raw, "resources", "gpus_per_worker")
    if isinstance(gpus, int | float) and gpus > 1 and gpus % 1:
        yield ("resources", "gpus_per_worker"), "above 1 it must be a whole number"


def layer_problems(config: Config) -> Iterable[Problem]:
    """Layers that a loss asks for and the network has not. Where none does, torch is not loaded."""
    asked = [
        (where(name, "loss", term, "layers"), list(values["layers"]))
        for name in needed_methods(config.table, [*config.methods, *(search.of for search in config.search)])
        if isinstance(method := config.table[name], Trained)
        for term, values in method.recipe.loss.weighted.items()
        if values.get("layers")
    ]
    if not asked:
        return
    import torch

    from fusiondistill.models.build import build
    from fusiondistill.models.features import LayerTaps

    model = config.model
    try:
        with torch.random.fork_rng([]):
            network = build(model.name, 2, model.feature_layer, model.parameters)
    except ValueError:
        return  # a network that cannot be built is told where it is needed
    for location, layers in asked:
        try:
            LayerTaps(network, layers).remove()
        except ValueError as error:
            yield location, f"{model.name}: {error}"


def at(raw: Mapping[str, Any], *keys: str) -> Any:
    """A value of the content, None where there is no such thing."""
    value: Any = raw
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _check_data(raw: Mapping[str, Any]) -> Iterable[Problem]:
    from fusiondistill.sources import SOURCES

    given = raw.get("data")
    data: dict[str, Any] = given if isinstance(given, dict) else {}
    for key, of in (("fit", "size"), ("split_seed", "test")):
        if data.get(key) is not None and data.get(of) is None:
            yield ("data", key), f"says nothing without data.{of}"
    name, places = data.get("name"), {key: data[key] for key in ("root", "images", "labels") if data.get(key)}
    if places and "name" not in data:
        place = next(iter(places.values()))
        told = f"does not say what is there: name: {', '.join(_AT_A_PLACE)} (`data check {place}` tells which)"
        yield ("data", next(iter(places))), told
    if not isinstance(name, str):
        return
    for key, place in places.items():
        if isinstance(place, list):
            text = "is one folder or file, not a list: put the images into one folder (links are followed)"
            yield ("data", key), text
        elif "://" in str(place):
            yield ("data", key), "must be a folder or file: copy a bucket's files to every node, or mount the bucket"
        elif key != "root" and name != "table":
            yield ("data", key), "is of the data source table alone; others have their files below data.root"
    if name in SOURCES and not SOURCES[name].facts.get("by_split") and data.get("test") is not None:
        yield ("data", "test"), f"{name} has a test split, so none is cut off: leave data.test out"
    if name not in SOURCES:
        yield ("data", "name"), f"no data set {name!r}{_meant(name, tuple(SOURCES))}"
    elif SOURCES[name].facts.get("needs_root") and not places:
        yield ("data",), f"{name} needs {'root: ' * (name != 'table')}{SOURCES[name].facts['needs_root']}"


_AT_A_PLACE = ("folder", "table", "parquet")
"""Sources of the user's own files."""
_CALLED = {"csv": "table", "tsv": "table", "huggingface": "parquet", "hf": "parquet", "hub": "parquet"}
"""Other names of sources -> the name."""


def _meant(name: str, sources: tuple[str, ...]) -> str:
    """What an unknown data set may be."""
    if "/" in name or Path(name).expanduser().exists():
        return (
            f": what lies at a path is {{name: {' or '.join(_AT_A_PLACE)}, root: {name}}} (`data check {name}` tells)"
        )
    called = _CALLED.get(name.lower())
    return f"; did you mean {called!r}?" if called else close_to(name, sources)


def _check_rows(raw: Mapping[str, Any], table: Table) -> Iterable[Problem]:
    """Rows must be methods that are there."""
    rows = raw.get("methods")
    for i, name in enumerate(rows if isinstance(rows, list) else ()):
        if isinstance(name, str) and name not in table.given and name not in (at(raw, "define") or {}):
            yield ("methods", i), f"no method {name!r}{close_to(name, tuple(table.given))}"
    for name in rows if isinstance(rows, list) else default_methods(raw):
        way = way_of(table.given.get(name, {})) if isinstance(name, str) else None
        if way is not None and way.fits and way.facts["picks"] and len(table.degradations) < 2:
            text = f"{way.name} chooses between degradations, and there is one: leave {name} out"
            said = name in raw or name in mapping(raw.get("define"))
            yield where(name, "inference") if said else ("methods",), text


def _check_names(raw: Mapping[str, Any]) -> Iterable[Problem]:
    """Degradations and the network must be there; what experts are trained for is not unseen."""
    from fusiondistill.networks import NETWORKS

    trained, unseen = raw.get("degradations", PAPER_DEGRADATIONS), at(raw, "evaluation", "unseen")
    for where_, names in ((("degradations",), raw.get("degradations")), (("evaluation", "unseen"), unseen)):
        for i, item in enumerate(names if isinstance(names, list) else ()):
            name, at_ = (item.get("name"), (*where_, i, "name")) if isinstance(item, dict) else (item, (*where_, i))
            if isinstance(name, str) and name not in DEGRADATIONS:
                yield at_, f"no degradation {name!r}{close_to(name, tuple(DEGRADATIONS))}"
    yield from problems_of_ids(trained, unseen)
    folder = at(raw, "evaluation", "corruptions")
    if isinstance(folder, str) and not Path(folder).expanduser().is_dir():
        yield ("evaluation", "corruptions"), f"no such folder: {folder}"
    name = at(raw, "model", "name")
    if isinstance(name, str) and (problem := NETWORKS.check_name(name)):
        yield ("model", "name"), problem
    elif problem := _problem_of_weights(name or Config.model_fields["model"].default.name, at(raw, "model", "weights")):
        yield ("model", "weights"), problem


def _problem_of_weights(name: Any, weights: Any) -> str:
    """Why a network cannot start from these weights, as far as it is known without fetching them."""
    from fusiondistill.networks import NETWORKS

    if not isinstance(weights, str) or not isinstance(name, str):
        return ""
    if weights != PRETRAINED:
        there = "://" in weights or Path(weights).expanduser().exists()
        return _weights_problem(weights) if there else f"no such file: {weights}; or say {PRETRAINED}"
    try:
        NETWORKS.provider(name).pretrained(name)
    except ValueError as error:
        return str(error)
    return ""


def _check_validation(raw: Mapping[str, Any], protocol: Protocol, table: Table) -> Iterable[Problem]:
    held_out = at(raw, "data", "validation")
    held_out = protocol.held_out if held_out is None else held_out
    if held_out == 0 and (raw.get("select") or protocol.select) == "validation":
        yield ("data", "validation"), "is 0, so there is nothing to select on: give a fraction, or select: last"
    if held_out == 0 and raw.get("search") and protocol.searches:
        yield ("search",), "needs a validation split: data.validation is 0"
    for name, settings in table.given.items() if held_out == 0 else ():
        start = settings.get("start")
        if isinstance(start, dict) and (what := chooses(start)):
            yield (
                where(name, "start"),
                f"{what} chooses on validation images, and data.validation is 0: give a fraction",
            )


def _check_checkpoints(raw: Mapping[str, Any], table: Table) -> Iterable[Problem]:
    """Checkpoints that stand for methods: one for each network, and files that are there."""
    seeds = raw.get("seeds") if isinstance(raw.get("seeds"), list) else [0]
    degradations = ids_in(raw.get("degradations", PAPER_DEGRADATIONS))
    for name, settings in table.given.items():
        given, each = settings.get("checkpoint"), settings.get("train_on") == "each"
        files: dict[Location, str] = {}
        if isinstance(given, str):
            files[where(name, "checkpoint")] = given
            if each and len(degradations) > 1 and "{degradation}" not in given:
                text = "is one file for a network each: put {degradation} in it, or give a mapping"
                yield where(name, "checkpoint"), text
                continue
        for key, path in given.items() if isinstance(given, dict) else ():
            if not each:
                yield where(name, "checkpoint"), "a mapping from degradations is for train_on: each; give one file"
                break
            if key not in degradations:
                text = f"is none of the degradations{close_to(str(key), tuple(degradations))}"
                yield where(name, "checkpoint", key), text
            elif isinstance(path, str):
                files[where(name, "checkpoint", key)] = path
        for place, path in files.items():
            if "{degradation}" in path and not each:
                yield place, "has {degradation} in it, which is for train_on: each"
                continue
            filled = [path.replace("{degradation}", one) for one in degradations] if "{degradation}" in path else [path]
            named = [one.replace("{seed}", str(seed)) for one in filled for seed in seeds or ()]
            missing = [n for n in named if "://" not in n and not Path(n).expanduser().exists()]
            if missing:
                yield place, f"no such checkpoint: {missing[0]}"
            elif found := next(filter(None, map(_weights_problem, dict.fromkeys(named))), ""):
                yield place, found


def _weights_problem(path: str) -> str:
    """Why a checkpoint on a disk cannot be read as finite weights; "" where it can be, or lies in a bucket."""
    file = Path(path).expanduser()
    if "://" in path or not (file.is_file() or file.is_dir()):  # a pipe would never end
        return ""
    return _read_once(path, file.stat().st_mtime_ns)


@lru_cache(maxsize=1000)
def _read_once(path: str, changed: int) -> str:
    """The problem of a checkpoint that changed at this time, which the points of a sweep ask for again and again."""
    from fusiondistill.checkpoints import CheckpointError, load_checkpoint

    try:
        load_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return ""


def _check_tracking(raw: Mapping[str, Any]) -> Iterable[Problem]:
    """Trackers must be installed, and a config, which a report shows, holds no password."""
    for name in ("mlflow", "wandb"):
        if at(raw, "tracking", name) and importlib.util.find_spec(name) is None:
            yield ("tracking", name), f"{name} is not installed: pip install 'fusiondistill[{name}]'"
    uri = at(raw, "tracking", "mlflow")
    if isinstance(uri, str) and re.search(r"://[^/]*@", uri):
        yield (
            ("tracking", "mlflow"),
            "holds a user or password: give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
