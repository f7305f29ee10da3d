"""Greedy soup: experts join the average as long as it gets no worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "greedy_soup",
    needs={"network", "validation"},
    candidates=lambda values, experts: 2 * experts - 1,
    source="Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482, recipe 1",
)
def greedy_soup(experts: Sequence[StateDict], at: At) -> dict[str, torch.Tensor]:
    """The average of those experts that held-out images choose one after another.

    Experts are sorted by their own score, the best first (of equals the earlier one). Each joins if the average with it
    is no worse than without it. A score is the mean accuracy over all degradations on held-out images; the likelihood
    decides between equal ones. `at.chosen` names the members.
    """
    from fusiondistill.merging._judging import Judge
    from fusiondistill.state_dicts import average

    judge = Judge(experts, at)
    alone = [judge(state) for state in experts]
    order = sorted(range(len(experts)), key=lambda i: alone[i], reverse=True)
    members, best = [order[0]], alone[order[0]]
    for i in order[1:]:
        score = judge(average([experts[j] for j in (*members, i)]))
        if score >= best:
            members, best = [*members, i], score
    at.chosen |= {"members": [at.names[i] for i in members], "validation": best.accuracy, "candidates": judge.judged}
    return average([experts[i] for i in members])
