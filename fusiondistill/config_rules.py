"""Rules between the keys of a config, checked on the raw content so that they speak up beside other mistakes."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusiondistill.config import PAPER_DEGRADATIONS
from fusiondistill.loss import modern_key
from fusiondistill.recipe import DEFAULTS, ROLES, Recipe, flat, with_keys
from fusiondistill.safe_yaml import Location

__all__ = ["cross_check"]

_SOURCES = ("digits", "cifar10", "cifar100", "tiny_imagenet", "parquet", "folder")
_NEEDS_ROOT = ("parquet", "folder", "tiny_imagenet")


def cross_check(raw: dict[str, Any]) -> Iterable[tuple[Location, str]]:
    """Rules between keys. They read the raw content, so that they speak up beside other mistakes."""
    name = _at(raw, "data", "name")
    paper = raw.get("protocol") == "paper"
    if isinstance(name, str) and not raw.get("plugins"):
        if name not in _SOURCES:
            yield ("data", "name"), f"no data set {name!r}{_close(name, _SOURCES)}"
        elif name in _NEEDS_ROOT and not _at(raw, "data", "root"):
            yield ("data",), f"{name} needs root: the folder or file that holds the images"
        elif "://" in str(_at(raw, "data", "root")):
            yield ("data", "root"), "must be a folder or file: copy what lies in a bucket to every node, or mount it"
    if paper and raw.get("search"):
        yield ("search",), "not under protocol paper: it has no validation split of its own for a search to look at"
    if raw.get("select") == "test" and not paper:
        yield ("select",), "test is a leak, admitted under protocol: paper only"
    yield from _check_names(raw)
    yield from _check_values(raw)


def _check_names(raw: dict[str, Any]) -> Iterable[tuple[Location, str]]:
    names = raw.get("degradations")
    if isinstance(names, list) and not raw.get("plugins"):
        known = _known_degradations()
        for i, n in enumerate(names):
            if isinstance(n, str) and n not in known:
                yield ("degradations", i), f"no degradation {n!r}{_close(n, known)}"
    yield from _check_unseen(raw)
    model = raw.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    if isinstance(name, str):
        depth = re.fullmatch(r"cifar_resnet(\d+)", name)
        if depth:
            if len(depth[1]) > 4 or not 8 <= int(depth[1]) <= 1202 or int(depth[1]) % 6 != 2:
                text = f"a CIFAR ResNet has 6n+2 layers (8, 14, 20, ..., 56, 110, ..., 1202), not {depth[1][:20]}"
                yield ("model", "name"), text
        else:
            known = ("cifar_resnet56", *_known_torchvision_models())
            if name not in known:
                yield ("model", "name"), f"no model {name!r}{_close(name, known, listed=False)}"


def _check_unseen(raw: dict[str, Any]) -> Iterable[tuple[Location, str]]:
    """What experts are trained for is not unseen."""
    names, trained = _at(raw, "evaluation", "unseen"), raw.get("degradations", PAPER_DEGRADATIONS)
    for i, name in enumerate(names if isinstance(names, list) else ()):
        where = ("evaluation", "unseen", i)
        if isinstance(trained, list | tuple) and name in trained:
            yield where, f"{name} is one of the degradations that experts are trained for"
        elif name in names[:i]:
            yield where, f"{name} is given twice"
        elif isinstance(name, str) and not raw.get("plugins") and name not in (known := _known_degradations()):
            yield where, f"no degradation {name!r}{_close(name, known)}"
    folder = _at(raw, "evaluation", "corruptions")
    if isinstance(folder, str) and not Path(folder).expanduser().is_dir():
        yield ("evaluation", "corruptions"), f"no such folder: {folder}"


def _known_degradations() -> tuple[str, ...]:
    """The registered names, read off the source: importing it costs torch, and seconds before a typo is reported."""
    folder = Path(__file__).parent / "degradations"
    pattern = re.compile(r'^(?:@register|compose)\(\s*"(\w+)"', re.M)
    found = [pattern.findall(path.read_text()) for path in sorted(folder.glob("*.py"))]
    return tuple(dict.fromkeys([*PAPER_DEGRADATIONS, *(name for names in found for name in names)]))


def _known_torchvision_models() -> tuple[str, ...]:
    """What ``torchvision.models.list_models(module=torchvision.models)`` gives, again without the import."""
    spec = importlib.util.find_spec("torchvision")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "models" if spec else Path()
    pattern = re.compile(r"^@register_model\(\)\n(?:.*\n)*?def (\w+)", re.M)
    return tuple(sorted(name for path in folder.glob("*.py") for name in pattern.findall(path.read_text())))


def _check_values(raw: dict[str, Any]) -> Iterable[tuple[Location, str]]:
    paper, search = raw.get("protocol") == "paper", raw.get("search")
    held_out = _at(raw, "data", "validation")
    if held_out is None:
        held_out = 0 if paper else 0.1
    if held_out == 0 and (raw.get("select") or ("test" if paper else "validation")) == "validation":
        yield ("data", "validation"), "is 0, so there is nothing to select on: give a fraction, or select: last"
    if held_out == 0 and search and not paper:
        yield ("search",), "needs a validation split: data.validation is 0"
    yield from _check_search(raw)
    for role in ROLES:
        given = _at(raw, role, "checkpoint")
        for name in given if isinstance(given, dict) else ():
            known = raw.get("degradations", PAPER_DEGRADATIONS)
            if role != "expert":
                yield (role, "checkpoint"), "a mapping from degradations is for experts; give one file"
            elif isinstance(known, list | tuple) and name not in known:
                yield (role, "checkpoint", name), f"is none of the degradations{_close(name, tuple(map(str, known)))}"
    experts = _at(raw, "expert", "checkpoint")
    several = not isinstance(raw.get("degradations"), list) or len(raw["degradations"]) > 1
    if isinstance(experts, str) and several and "{degradation}" not in experts:
        yield (
            ("expert", "checkpoint"),
            "is one file for all experts: put {degradation} in it, or give a mapping",
        )
    if _at(raw, "fusion", "checkpoint") and _at(raw, "fusion", "recalibrate") == "per_degradation":
        yield ("fusion", "recalibrate"), "per_degradation merges the experts again, which fusion.checkpoint stands for"
    yield from _check_files(raw)
    yield from _check_tracking(raw)
    gpus = _at(raw, "resources", "gpus_per_worker")
    if isinstance(gpus, int | float) and gpus > 1 and gpus % 1:
        yield ("resources", "gpus_per_worker"), "above 1 it must be a whole number"


def _check_files(raw: dict[str, Any]) -> Iterable[tuple[Location, str]]:
    """Files that the config names must be there; plugins must be Python."""
    plugins = raw.get("plugins")
    for i, name in enumerate(plugins if isinstance(plugins, list) else ()):
        try:
            compile(Path(name).read_text(), name, "exec")
        except (OSError, TypeError, ValueError) as error:
            yield ("plugins", i), f"{name} cannot be read: {error}"
        except SyntaxError as error:
            yield ("plugins", i), f"{name} is not valid Python: line {error.lineno}: {error.msg}"
    given_seeds = raw.get("seeds")
    seeds = given_seeds if isinstance(given_seeds, list) else [0]
    for section in (*ROLES, "fusion"):
        given = _at(raw, section, "checkpoint")
        files: dict[Location, str] = {(section, "checkpoint"): given} if isinstance(given, str) else {}
        if section == "expert" and isinstance(given, dict):
            known = raw.get("degradations", PAPER_DEGRADATIONS)
            files = {(section, "checkpoint", name): str(path) for name, path in given.items() if name in known}
        for where, path in files.items():
            named = [path.replace("{seed}", str(seed)) for seed in seeds if "{degradation}" not in path]
            missing = [n for n in named if "://" not in n and not Path(n).expanduser().exists()]
            if missing:
                yield where, f"no such checkpoint: {missing[0]}"


def _check_tracking(raw: dict[str, Any]) -> Iterable[tuple[Location, str]]:
    """Trackers must be installed, and a config, which a report shows, holds no password."""
    for name in ("mlflow", "wandb"):
        if _at(raw, "tracking", name) and importlib.util.find_spec(name) is None:
            yield ("tracking", name), f"{name} is not installed: pip install 'fusiondistill[{name}]'"
    uri = _at(raw, "tracking", "mlflow")
    if isinstance(uri, str) and re.search(r"://[^/]*@", uri):
        yield (
            ("tracking", "mlflow"),
            "holds a user or password: give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )


def _at(raw: dict[str, Any], section: str, key: str) -> Any:
    """A value of a section, None where there is no such thing."""
    content = raw.get(section)
    return content.get(key) if isinstance(content, dict) else None


def _check_search(raw: dict[str, Any]) -> Iterable[tuple[Location, str]]:
    space = _at(raw, "search", "space")
    dimensions = {key: d if isinstance(d, dict) else {} for key, d in space.items()} if isinstance(space, dict) else {}
    for key, forms in dimensions.items():
        problem = _fusion_problem(key, forms) if key in _FUSION else _space_problem(modern_key(key), forms)
        if problem:
            yield ("search", "space", key), problem
        elif key in _FUSION and _at(raw, "fusion", "checkpoint"):
            yield ("search", "space", key), "has nothing to choose from: fusion.checkpoint stands for the fusion"
    if _at(raw, "search", "searcher") == "optuna":
        if importlib.util.find_spec("optuna") is None:
            yield ("search", "searcher"), "optuna is not installed: pip install 'fusiondistill[optuna]'"
        for key, forms in dimensions.items():
            if "grid" in forms:
                yield ("search", "space", key), "optuna tries no grid point by point: use choice, or searcher: random"


_FUSION = {"fusion.method": ("average", "median", "ties"), "fusion.recalibrate": ("none", "average", "mixed")}
"""What a search may choose of the fusion; ``per_degradation`` is no starting point for a distillation."""


def _fusion_problem(key: str, forms: Mapping[str, Any]) -> str | None:
    if set(forms) - {"choice", "grid"}:
        return f"needs a choice or a grid of {', '.join(_FUSION[key])}"
    for values in forms.values():
        for value in values if isinstance(values, list) else ():
            if value not in _FUSION[key]:
                return f"cannot be {value!r}{_close(str(value), _FUSION[key])}"
    return None


def _space_problem(key: str, forms: Mapping[str, Any]) -> str | None:
    """What is wrong with a dimension: no key of the recipe, or a value that the key does not admit."""
    if key in ("epochs", "checkpoint"):
        return "is not for a search: trials have search.epochs and train themselves"
    recipe = Recipe.model_validate(DEFAULTS["fusiondistill"])
    keys = tuple(flat(recipe))
    if key not in keys:
        return f"is no key of the recipe{_close(key, (*keys, *_FUSION))}"
    for value in _samples(forms):
        try:
            admitted = flat(with_keys(recipe, {key: value}))[key]
        except ValidationError as error:
            for problem in error.errors():
                if f"{'.'.join(map(str, problem['loc']))}.".startswith(f"{key}."):
                    message = problem["msg"].removeprefix("Value error, ")
                    hint = "; use integers, or a choice" if problem["type"].startswith("int_") else ""
                    return f"cannot be {value!r}: {message[0].lower()}{message[1:]}{hint}"
            continue  # it does not go with the default of another key, which is not said yet
        if isinstance(value, str | bool) and type(admitted) is not type(value):
            return f"cannot be {value!r}: a number is meant"
    return None


def _samples(forms: Mapping[str, Any]) -> Iterable[Any]:
    """Values of a dimension: all that it lists, the ends of a range, and one between that is no whole number."""
    for form, values in forms.items():
        if isinstance(values, list):
            yield from values
            ends = [value for value in values if isinstance(value, int | float)]
            if form in ("uniform", "loguniform") and len(ends) == 2:
                yield ends[0] + (ends[1] - ends[0]) / 2.718


def _close(name: str, known: tuple[str, ...], *, listed: bool = True) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return hint + (f"; known: {', '.join(known)}" if listed and not close else "")
