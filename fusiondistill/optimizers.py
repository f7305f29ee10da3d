"""The optimisers of a recipe, in torch's form for each step alone, or in one that a CUDA graph can hold.

A graph replays what was launched, so what changes from step to step has to lie in tensors on the device: the learning
rate and the number of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fusiondistill.muon import Muon
from fusiondistill.recipe import Recipe

__all__ = ["SharedStepRAdam", "load", "optimizer_of", "set_rate"]


class SharedStepRAdam(torch.optim.RAdam):
    """RAdam whose numbers that depend on the step alone are computed once for all tensors, on the device.

    torch's form for graphs computes them for each tensor, which is four small launches each, and in float32, in which
    the length of the average is off by 0.1 in the first steps. The state is torch's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Follow the gradients; reads nothing back from the device."""
        for group in self.param_groups:
            weights: list[torch.Tensor] = []
            grads: list[torch.Tensor] = []
            means: list[torch.Tensor] = []
            squares: list[torch.Tensor] = []
            steps: list[torch.Tensor] = []
            self._init_group(group, weights, grads, means, squares, steps)
            if not weights:
                continue
            first, second = group["betas"]
            torch._foreach_add_(steps, 1)
            adaptive, plain = (one.to(means[0].dtype) for one in radam_rates(steps[0], group["lr"], first, second))
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
            torch._foreach_lerp_(means, grads, 1 - first)
            torch._foreach_mul_(squares, second)
            torch._foreach_addcmul_(squares, grads, grads, 1 - second)
            factors = torch._foreach_sqrt(squares)
            torch._foreach_add_(factors, group["eps"])
            torch._foreach_reciprocal_(factors)
            _scale_and_shift(tuple(factors), adaptive, plain)
            torch._foreach_addcmul_(weights, means, factors, -1)


def _scale_and_shift(tensors: tuple[torch.Tensor, ...], factor: torch.Tensor, offset: torch.Tensor) -> None:
    """Multiply each tensor by one number and add another, in place; both float [], on the same device."""
    if factor.device.type == "cpu":  # torch's form for lists reads the numbers there
        for one in tensors:
            one.mul_(factor).add_(offset)
    else:
        torch._foreach_mul_(tensors, factor)
        torch._foreach_add_(tensors, offset)


def radam_rates(
    step: torch.Tensor, rate: torch.Tensor | float, first: float, second: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What RAdam multiplies the mean gradient with, float64 [] each.

    Args:
        step: number of the step from 1, [].
        rate: the learning rate.
        first, second: how much of the mean gradient and of the mean square is kept in a step.

    Returns:
        (what is divided by the root of the mean square, what is not): one of the two is 0. Liu et al., On the variance
        of the adaptive learning rate and beyond, ICLR 2020, algorithm 2.
    """
    step = step.double()
    longest, kept = 2 / (1 - second) - 1, second**step
    length = longest - 2 * step * kept / (1 - kept)
    tractable = length > 5
    part = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    whole = rate / (1 - first**step)
    adaptive = torch.where(tractable, whole * part.clamp(min=0).sqrt() * (1 - kept).sqrt(), 0.0)
    return adaptive, torch.where(tractable, 0.0, whole)


def optimizer_of(model: nn.Module, recipe: Recipe, static: bool = False) -> torch.optim.Optimizer:
    """The optimiser of a recipe.

    Args:
        model: on its device.
        recipe: says which.
        static: in the form that a CUDA graph can hold; its results differ by rounding.
    """
    setting = recipe.optimizer
    weights, decay = list(model.parameters()), setting.weight_decay
    rate: Any = torch.tensor(setting.lr, device=weights[0].device) if static else setting.lr
    if setting.name == "sgd":
        nesterov = setting.nesterov and setting.momentum > 0  # without momentum it is plain descent
        return torch.optim.SGD(
            weights, rate, setting.momentum, weight_decay=decay, nesterov=nesterov, fused=True if static else None
        )
    if setting.name == "muon":  # reads nothing from the device in either form
        return Muon(weights, rate, setting.momentum, setting.nesterov, decay)
    if setting.name == "radam":
        kind = SharedStepRAdam if static else torch.optim.RAdam
        return kind(weights, lr=rate, weight_decay=decay, capturable=static)
    if not static:
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
    made = torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True, capturable=True)
    made._warned_capturable_if_run_uncaptured = True  # the short last batch may run so
    return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in its place where that is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take over the state of an optimiser of either form, which may come from another device; its settings stay."""
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    groups = [{**group, "params": given["params"]} for group, given in zip(own, state["param_groups"], strict=True)]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
