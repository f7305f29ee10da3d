"""The stages of a search's trials and their starts, and the values that recipe and start have without a search."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from fusiondistill.methods import Merge
from fusiondistill.recipe import Recipe, flat, with_keys
from fusiondistill.search_rules import START, merges_of
from fusiondistill_runner.planning.specs import MergeSpec, SearchSpec
from fusiondistill_runner.planning.stage import Stage

__all__ = [
    "AS_IT_STANDS",
    "TRIAL",
    "as_it_stands",
    "chosen_start",
    "search_name",
    "spec_of",
    "trial_stage",
    "whole_recipe",
    "with_found",
]

AS_IT_STANDS = "plain"
"""The role of the row's own training among a search's inputs, where that training is the first trial, too."""

TRIAL = "trial"
"""The name of each trial's stage; the row's own training has the row's name."""


def search_name(method: str, degradation: str = "") -> str:
    """What the search stage of a method is called, or that of its network for one degradation."""
    return f"search-{method}" + (f"-{degradation}" if degradation else "")


def spec_of(search: Stage) -> SearchSpec:
    """The spec of a search's stage."""
    assert isinstance(search.spec, SearchSpec)
    return search.spec


def chosen_start(plain: Stage, values: Mapping[str, Any]) -> Stage:
    """The merge that a training starts from, with a candidate's values laid over it.

    Args:
        plain: the start without a search.
        values: dimension -> value; those of the start are used.

    Returns:
        ``plain`` itself where nothing differs. Another merge is a stage like any other; a worker that finds it missing
        makes it.

    Raises:
        pydantic.ValidationError: a value that the merging method does not admit.
    """
    given = {key.removeprefix(START): value for key, value in values.items() if key.startswith(START)}
    spec = plain.spec
    if not given or not isinstance(spec, MergeSpec):
        return plain
    before = Merge(merge=spec.merge, recalibrate=spec.recalibrate, images=spec.images, **spec.parameters)
    merge = before.changed(given)
    new = spec.model_copy(
        update={"merge": merge.merge, "recalibrate": merge.recalibrate, "parameters": merge.parameters}
    )
    return plain if new == spec else Stage(plain.name, plain.seed, new, plain.inputs)


def with_found(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with a candidate's values laid over it, those that are keys of the recipe.

    Raises:
        pydantic.ValidationError: the values do not go together.
    """
    return with_keys(recipe, {key: value for key, value in values.items() if not key.startswith(START)})


def whole_recipe(search: Stage) -> dict[str, Any]:
    """Every key that could be searched -> the value that recipe and start have without a search."""
    spec = spec_of(search)
    values = flat(spec.train.recipe)
    start = search.inputs["start"].spec if "start" in search.inputs else None
    if isinstance(start, MergeSpec):
        values |= {f"{START}merge": start.merge, f"{START}recalibrate": start.recalibrate}
        forms = {key: dimension.model_dump(exclude_none=True) for key, dimension in spec.space.items()}
        for entry in reversed(merges_of(start.merge, forms)):
            own = start.parameters if entry.name == start.merge else {}
            values |= {f"{START}{key}": value for key, value in _defaults(entry, own).items()}
    return values


def _defaults(entry: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a merging method as they are given, or by default; required ones may be missing."""
    fields = entry.parameters.model_fields
    defaults = {
        key: None if field.is_required() else to_jsonable_python(field.default) for key, field in fields.items()
    }
    return {**defaults, **own}


def as_it_stands(search: Stage) -> dict[str, Any]:
    """The values of the dimensions without a search: the first candidate."""
    whole = whole_recipe(search)
    return {name: whole[name] for name in spec_of(search).space}


def trial_stage(search: Stage, values: Mapping[str, Any], repeat: int = 0) -> Stage:
    """A search trial: the searched training itself with a candidate's values, a stage like any other.

    Where it is the very training that the search has as its input ``plain``, it is that stage.

    Args:
        search: the search stage.
        values: dimension -> value.
        repeat: 0 for the candidate itself; others differ in order, crops and noise.

    Raises:
        pydantic.ValidationError: the values do not go together.
    """
    train = spec_of(search).train
    data_seed = train.data_seed
    if repeat:
        address = f"{data_seed}/repeat/{repeat}".encode()
        data_seed = int.from_bytes(hashlib.sha256(address).digest()[:4], "big")
    spec = train.model_copy(update={"recipe": with_found(train.recipe, values), "data_seed": data_seed})
    inputs = {role: stage for role, stage in search.inputs.items() if role != AS_IT_STANDS}
    if "start" in inputs:
        inputs["start"] = chosen_start(inputs["start"], values)
    trial, plain = Stage(TRIAL, search.seed, spec, inputs), search.inputs.get(AS_IT_STANDS)
    return plain if plain is not None and plain.digest == trial.digest else trial
