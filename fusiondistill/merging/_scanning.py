"""Settings that may be a list, of which the held-out images choose one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model

from fusiondistill.merging._judging import Judge

if TYPE_CHECKING:
    from fusiondistill.merging._at import At
    from fusiondistill.state_dicts import StateDict

__all__ = ["best_of", "lists_in", "or_lists"]

ONE, SEVERAL = "[one]", "[several]"
"""Parts of an error's location that no message shows."""


def or_lists(model: type[BaseModel], scanned: Collection[str]) -> type[BaseModel]:
    """A model of parameters in which some may also be a list of values, each within the range of one."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        one: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        if name in scanned:
            several = Annotated[tuple[one, ...], Field(min_length=1)]
            either = Annotated[one, Tag(ONE)] | Annotated[several, Tag(SEVERAL)]
            one = Annotated[either, Discriminator(lambda value: SEVERAL if isinstance(value, list | tuple) else ONE)]
        text = field.description
        if name in scanned:
            text = f"{text or ''}; of a list the one that is best on validation".removeprefix("; ")
        default = ... if field.is_required() else field.default
        fields[name] = (one, Field(default, description=text))
    config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    return create_model(model.__name__, __config__=config, **fields)


def lists_in(values: Mapping[str, Any], scanned: Collection[str]) -> dict[str, Sequence[Any]]:
    """The scanned parameters that are given as lists."""
    return {name: values[name] for name in values if name in scanned and isinstance(values[name], list | tuple)}


def best_of(
    make: Callable[..., Mapping[str, torch.Tensor]],
    lists: Mapping[str, Sequence[Any]],
    experts: Sequence[StateDict],
    at: At,
) -> Mapping[str, torch.Tensor]:
    """The merged weights with the best score on held-out images; of equals the first. The choice goes to ``at.chosen``.

    Args:
        make: merges with one value of each list, by name.
        lists: parameter -> values; all combinations are tried.
    """
    judge, best = Judge(experts, at), None
    for combination in itertools.product(*lists.values()):
        values = dict(zip(lists, combination, strict=True))
        merged = make(**values)
        score = judge(merged)
        if best is None or score > best[0]:
            best = score, values, merged
    assert best is not None
    at.chosen |= {**best[1], "validation": best[0].accuracy, "candidates": judge.judged}
    return best[2]


if TYPE_CHECKING:
    import torch
