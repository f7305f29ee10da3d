"""A weighted average whose weights held-out images choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "linear_search",
    needs={"network", "validation"},
    candidates=lambda values, experts: values["trials"],
    source="Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482; the search is a pattern search (Hooke, Jeeves "
    "1961)",
)
def linear_search(
    experts: Sequence[StateDict],
    at: At,
    *,
    trials: Annotated[int, Field(ge=1, le=10_000, description="candidates that are judged, at most")] = 40,
) -> dict[str, torch.Tensor]:
    """The weighted average `sum_i w_i theta_i` with the weights that do best on held-out images, `w_i >= 0`, sum 1.

    It starts from equal weights and goes round the experts. A step takes `w` towards one expert,
    `(1 - s) w + s e_i`, or away from it, `w_i (1 - s)` with the others scaled up. It is kept if the score gets better.
    After a round without a kept step `s` is halved, from 1/2 on. The score is that of `greedy_soup`. `at.chosen` has
    the weights.
    """
    from fusiondistill.merging._judging import Judge
    from fusiondistill.state_dicts import average

    judge, count = Judge(experts, at), len(experts)
    best = [1 / count] * count
    score, step = judge(average(experts, best)), 0.5
    while judge.judged < trials and count > 1 and step > 1e-3:
        kept = False
        for place, towards in ((i, way) for i in range(count) for way in (True, False)):
            if judge.judged == trials:
                break
            tried = _moved(best, place, step, towards)
            found = judge(average(experts, tried)) if tried else score
            if found > score:
                best, score, kept = tried, found, True
        step = step if kept else step / 2
    chosen = {name: round(weight, 6) for name, weight in zip(at.names, best, strict=True)}
    at.chosen |= {"weights": chosen, "validation": score.accuracy, "candidates": judge.judged}
    return average(experts, best)


def _moved(weights: Sequence[float], place: int, step: float, towards: bool) -> list[float]:
    """Weights of sum 1 with more or less of one; none where there is no such step."""
    if towards:
        return [(1 - step) * weight + step * (i == place) for i, weight in enumerate(weights)]
    left = [weight * (1 - step) if i == place else weight for i, weight in enumerate(weights)]
    return [weight / sum(left) for weight in left] if weights[place] not in (0, 1) else []
