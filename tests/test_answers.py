"""Answers of networks that are no numbers."""

from __future__ import annotations

import pytest
import torch

from fusiondistill.evaluation import Judged
from fusiondistill.registry import WrongResult
from fusiondistill_runner.working.evaluate import _check_answers


def judged(nll: torch.Tensor | None) -> Judged:
    return Judged(torch.zeros(2, 3, dtype=torch.int64), nll, nll)


def test_a_network_that_answers_nan_is_no_network_at_chance() -> None:
    _check_answers(judged(torch.ones(2, 3)))
    _check_answers(judged(None))  # of votes
    _check_answers(judged(torch.tensor([[1.0, 2.0, torch.inf], [1.0, 2.0, 3.0]])))  # sure, and wrong
    nan = torch.tensor([[1.0, torch.nan, torch.nan], [1.0, torch.nan, 3.0]])
    with pytest.raises(WrongResult, match="not finite for 2 of 3 images: its weights are finite, but too large"):
        _check_answers(judged(nan))
