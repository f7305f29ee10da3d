"""Muon: each matrix of weights follows the orthogonalised mean of its gradients, all other weights plain momentum.

K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, https://kellerjordan.github.io/posts/muon.
``torch.optim.Muon`` takes matrices alone, in bfloat16; here a convolution is the matrix [out, in x height x width], and
a step reads nothing back from the device, so that a CUDA graph can hold it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["Muon", "is_matrix", "orthogonalised"]

Tensors = list[torch.Tensor]

_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
"""The odd polynomial of the iteration: it lifts small singular values fast, and leaves all between 0.7 and 1.2."""
_ROUNDS = 5
_VECTORS = 0.5
"""The learning rate of what is no matrix, as a part of that of the matrices."""


def is_matrix(weight: torch.Tensor) -> bool:
    """Is this the weight of a linear layer or of a convolution? Biases, norms and positions are none."""
    return weight.ndim in (2, 4, 5) and 1 < len(weight) < weight.numel()


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """The matrices with all singular values near 1, by five rounds of Newton and Schulz's iteration.

    Args:
        matrices: float [N, rows, columns].

    Returns:
        Float [N, rows, columns]; a matrix of zeros stays one.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ROUNDS):
        square = x @ x.mT
        square = torch.baddbmm(square, square, square, beta=_CUBIC, alpha=_QUINTIC)
        x = torch.baddbmm(x, square, x, beta=_LINEAR)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised for matrices; weight decay is decoupled.

    With g the gradient and m the momentum, a step is `m = momentum m + g`, `u = g + momentum m` (Nesterov's) or m. A
    matrix moves by `lr sqrt(max(1, rows / columns))` times the orthogonalised u, any other weight by `lr / 2` times u.

    Args:
        weights: all weights of a network; :func:`is_matrix` says which are matrices.
        lr: the learning rate, a number or a tensor [] on the weights' device.
        momentum: 0 to below 1.
        nesterov: look ahead.
        weight_decay: what a weight loses in a step, times its learning rate.
    """

    def __init__(
        self,
        weights: Iterable[torch.Tensor],
        lr: float | torch.Tensor,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Follow the gradients; reads nothing back from the device."""
        for group in self.param_groups:
            moved = [weight for weight in group["params"] if weight.grad is not None]
            if not moved:
                continue
            grads = [weight.grad for weight in moved]
            means = [self._mean(weight) for weight in moved]
            torch._foreach_mul_(means, group["momentum"])
            torch._foreach_add_(means, grads)
            updates = list(torch._foreach_add(grads, means, alpha=group["momentum"])) if group["nesterov"] else means
            alike: dict[tuple[int, int], tuple[Tensors, Tensors]] = defaultdict(lambda: ([], []))
            vectors, steps = Tensors(), Tensors()
            for weight, update in zip(moved, updates, strict=True):
                if is_matrix(weight):
                    order = _in_memory(weight)
                    own, theirs = alike[len(weight), weight[0].numel()]
                    own.append(weight.permute(order))
                    theirs.append(update.permute(order).flatten(1))
                else:
                    vectors.append(weight)
                    steps.append(update)
            if vectors:
                _move(vectors, steps, _VECTORS * group["lr"], group["weight_decay"])
            for (rows, columns), (own, theirs) in alike.items():
                turned = orthogonalised(torch.stack(theirs)) * max(1.0, rows / columns) ** 0.5
                shaped = [update.view(weight.shape) for weight, update in zip(own, turned, strict=True)]
                _move(own, shaped, group["lr"], group["weight_decay"])

    def _mean(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        mean: torch.Tensor = state["momentum_buffer"]
        return mean


def _in_memory(weight: torch.Tensor) -> list[int]:
    """The dimensions of a weight, those of its columns as they lie in memory: in that order nothing is copied.

    In which order the columns of a matrix are does not matter to a step.
    """
    return [0, *sorted(range(1, weight.ndim), key=weight.stride, reverse=True)]


def _move(weights: Tensors, updates: Tensors, rate: float | torch.Tensor, decay: float) -> None:
    """Take a step, in place; a rate that is a tensor stays on the device."""
    if isinstance(rate, torch.Tensor) and rate.device.type == "cpu":  # torch's form for lists reads the number there
        for weight, update in zip(weights, updates, strict=True):
            weight.mul_(1 - rate * decay).sub_(update * rate)
        return
    if decay:
        torch._foreach_mul_(weights, 1 - rate * decay)
    torch._foreach_sub_(weights, torch._foreach_mul(updates, rate))
