"""A weighted average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, FiniteFloat

from fusiondistill.merging import MERGING, At
from fusiondistill.shares import problem_of

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


def _usable(weights: tuple[float, ...] | dict[str, float]) -> tuple[float, ...] | dict[str, float]:
    if problem := problem_of(list(weights.values() if isinstance(weights, dict) else weights)):
        raise ValueError(problem)
    return weights


Weights = Annotated[tuple[FiniteFloat, ...] | dict[str, FiniteFloat], AfterValidator(_usable)]


def _fit(parameters: Mapping[str, Any], degradations: Sequence[str]) -> str | None:
    """What is wrong if the weights do not fit the experts, else None."""
    weights = parameters["weights"]
    if isinstance(weights, Mapping):
        what = f"weights are for {', '.join(weights)}; there must be one for each of {', '.join(degradations)}"
        return None if {*weights} == {*degradations} else what
    if len(weights) == len(degradations):
        return None
    return f"{len(weights)} weights for {len(degradations)} experts: {', '.join(degradations)}"


@MERGING.register("linear", check=_fit, source="Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482")
def linear(
    experts: Sequence[StateDict],
    at: At,
    *,
    weights: Annotated[Weights, Field(description="a number for each expert, in their order or by degradation")],
) -> dict[str, torch.Tensor]:
    """The weighted average: each weight of the merged network is `sum_i w_i theta_i / sum_i w_i`.

    Weights are finite, with a sum above 0; they are normalised.
    """
    from fusiondistill import state_dicts

    return state_dicts.average(experts, _in_order(weights, at) if isinstance(weights, Mapping) else weights)


def _in_order(weights: Mapping[str, float], at: At) -> list[float]:
    """The weights in the order of the experts.

    Raises:
        ValueError: a degradation has no weight, or a weight no degradation.
    """
    if {*weights} != {*at.names}:
        raise ValueError(f"weights are for {', '.join(weights)}, the experts for {', '.join(at.names)}")
    return [weights[name] for name in at.names]
