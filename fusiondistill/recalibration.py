"""The BatchNorm statistics that merged weights need: recomputed on images, without a label or a training step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["recalibrate_batchnorm"]


def recalibrate_batchnorm(model: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """Replace the running statistics of all BatchNorm layers by those of `batches`; no label, no training step.

    Each layer gets the mean and the unbiased variance of all values that it sees, as if all batches were one: the
    pooled mean, and the variance within the batches plus that of their means, every batch weighted by its number of
    values. PyTorch's own cumulative average (`momentum=None`, as in `torch.optim.swa_utils.update_bn`) weighs a short
    last batch like a full one and leaves the variance of the means out; for a single batch the two are equal.
    During the pass every layer normalises by its batch, as in training, so only the first layer's statistics are
    independent of how images are cut into batches: let each batch be a random sample of the whole mixture.

    Args:
        model: changed in place. Everything but BatchNorm runs in eval mode (no dropout) during the pass, without
            gradients. One without BatchNorm that keeps statistics is returned as it is, the batches unread.
        batches: input tensors as the model takes them, on its device.

    Returns:
        The same model; training flags and momenta are as before.

    Raises:
        ValueError: no batch, or a batch with a single value per channel. The model is then unchanged.

    Example:
        >>> batches = [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])]
        >>> network = recalibrate_batchnorm(nn.BatchNorm1d(1), batches)
        >>> network.running_mean, network.running_var  # of 1, 3, 5, 7
        (tensor([4.]), tensor([6.6667]))
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        return model
    pooled = {layer: _Pooled() for layer in layers}
    count = 0
    with _measuring(model, pooled), torch.no_grad():
        for batch in batches:
            model(batch)
            count += 1
    if count == 0:
        raise ValueError("BatchNorm cannot be recalibrated without a batch")
    for layer, statistics in pooled.items():
        if statistics.values > 0:  # a layer that the forward pass does not reach keeps what it had
            statistics.write(layer, count)
    return model


class _Pooled:
    """Mean and variance of a stream of batches, merged pairwise in float64 (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.values = 0  # per channel, so far
        self.mean: torch.Tensor | float = 0.0
        self.squares: torch.Tensor | float = 0.0  # sum of squared deviations from the mean

    def __call__(self, layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Forward hook: with momentum 1 a layer's running statistics are those of the batch just seen."""
        batch = inputs[0].numel() // inputs[0].shape[1]
        mean, variance = layer.running_mean.double(), layer.running_var.double()
        total = self.values + batch
        shift = mean - self.mean
        self.squares = self.squares + variance * (batch - 1) + shift**2 * (self.values * batch / total)
        self.mean = self.mean + shift * (batch / total)
        self.values = total

    def write(self, layer: _BatchNorm, batches: int) -> None:
        assert isinstance(self.squares, torch.Tensor) and isinstance(self.mean, torch.Tensor)
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.copy_(self.mean)
        layer.running_var.copy_(self.squares / (self.values - 1))
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(batches)


@contextmanager
def _measuring(model: nn.Module, pooled: Mapping[_BatchNorm, _Pooled]) -> Iterator[None]:
    """BatchNorm in train mode with a hook, all else in eval mode; afterwards everything is put back as it was."""
    training = {module: module.training for module in model.modules()}
    momenta = {layer: layer.momentum for layer in pooled}
    before = {layer: {name: b.clone() for name, b in layer.named_buffers(recurse=False)} for layer in pooled}
    hooks = [layer.register_forward_hook(statistics) for layer, statistics in pooled.items()]
    model.eval()
    for layer in pooled:
        layer.reset_running_stats()  # a NaN left in there would survive momentum 1
        layer.training, layer.momentum = True, 1.0
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in training.items():
            module.training = flag
        for layer, momentum in momenta.items():
            layer.momentum = momentum
            for name, buffer in layer.named_buffers(recurse=False):
                buffer.copy_(before[layer][name])
