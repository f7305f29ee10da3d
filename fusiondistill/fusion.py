"""Fusing experts: several state dicts in, one out; and the BatchNorm statistics that the fused weights then need."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

StateDict = Mapping[str, torch.Tensor]
Buffers = Literal["average", "first"]

_STATISTICS = ("running_mean", "running_var")
# Every other buffer that a network we can build keeps in its state dict (BatchNorm's counter, Swin's tables).
_OTHER_BUFFERS = ("num_batches_tracked", "relative_coords_table", "relative_position_index")


def average(
    state_dicts: Sequence[StateDict], weights: Sequence[float] | None = None, *, buffers: Buffers = "average"
) -> dict[str, torch.Tensor]:
    """Average networks of one architecture, tensor by tensor: `sum_i w_i theta_i / sum_i w_i` ("model soups").

    Sums are done in float64 and cast back once, so the average of equal float32 networks is that network, bit for bit.
    Averaged BatchNorm variances leave out how far the experts' means lie apart: see `recalibrate_batchnorm`.

    Args:
        state_dicts: at least one, with the same keys and shapes; they are not changed and not aliased.
        weights: one finite number per state dict with a sum above 0, normalised here; None weighs all the same.
        buffers: "average" averages every floating tensor; "first" takes BatchNorm's running mean and variance from
            the first state dict, as the released code of the paper does (its ModelSoups row is at chance).

    Returns:
        A new state dict with the first one's dtypes and devices. Integer tensors are the first's.

    Raises:
        ValueError: no state dict, unusable weights, unknown `buffers`, or tensors that differ (naming the first few).

    Example:
        >>> average([{"w": torch.tensor([1.0])}, {"w": torch.tensor([4.0])}], weights=[2, 1])
        {'w': tensor([2.])}
    """
    _check(state_dicts, buffers)
    shares = _shares(weights, len(state_dicts))
    first = state_dicts[0]
    fused = {}
    for key, tensor in first.items():
        if not tensor.is_floating_point() or (buffers == "first" and _ends(key, _STATISTICS)):
            fused[key] = tensor.detach().clone()
            continue
        total = torch.zeros(tensor.shape, dtype=torch.float64, device=tensor.device)
        for share, state in zip(shares, state_dicts, strict=True):
            total += share * state[key].detach().to(tensor.device, torch.float64)
        fused[key] = total.to(tensor.dtype)
    return fused


def median(state_dicts: Sequence[StateDict], *, buffers: Buffers = "average") -> dict[str, torch.Tensor]:
    """Take the median of each weight: what a single network that strayed cannot move.

    Of an even number of networks it is the mean of the middle two, in float64. BatchNorm's statistics are no weights:
    they are averaged, or the first's, and integer tensors are the first's, as in :func:`average`.

    Raises:
        ValueError: as :func:`average`.

    Example:
        >>> median([{"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}, {"w": torch.tensor([9.0])}])
        {'w': tensor([2.])}
    """
    fused = average(state_dicts, buffers=buffers)
    for key in _weights(fused):
        values = torch.stack([state[key].detach().to(fused[key].device, torch.float64) for state in state_dicts])
        ordered, count = values.sort(dim=0).values, len(state_dicts)
        fused[key] = ((ordered[(count - 1) // 2] + ordered[count // 2]) / 2).to(fused[key].dtype)
    return fused


def ties(
    state_dicts: Sequence[StateDict], *, base: StateDict, buffers: Buffers = "average", density: float = 0.2
) -> dict[str, torch.Tensor]:
    """TIES-merging (Yadav et al., NeurIPS 2023): trim, elect sign, disjoint mean, relative to the base; lambda = 1.

    Of each network's change `tau_i = theta_i - base` the `density` of the largest magnitudes (over the whole network)
    is kept, the rest set to 0. Each weight's sign is that of the sum of what is kept. The merged change is the mean of
    the kept values with that sign, and it is added to the base; where the signs cancel out, the base stays.

    Args:
        state_dicts: networks that were all fine-tuned from `base`.
        base: their common start.
        buffers: where BatchNorm's statistics come from, as in :func:`average`. Integer tensors are the first's.
        density: part of each change that is kept, above 0 and at most 1; 0.2 is the paper's choice.

    Raises:
        ValueError: as :func:`average`, also for a base that does not fit; or a density out of range.

    Example:
        >>> experts = [{"w": torch.tensor([3.0, 0.1])}, {"w": torch.tensor([5.0, -4.0])}]
        >>> ties(experts, base={"w": torch.zeros(2)}, density=0.5)  # keeps 3 and 5
        {'w': tensor([4., 0.])}
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density!r}")
    fused = average(state_dicts, buffers=buffers)
    if difference := state_difference(fused, base):
        raise ValueError(f"the base does not fit the state dicts: {difference}")
    keys = list(_weights(fused))
    start = _flat(base, keys)
    total, count = torch.zeros_like(start), torch.zeros_like(start)
    changes = [_trimmed(_flat(state, keys) - start, density) for state in state_dicts]
    elected = torch.stack(changes).sum(0).sign()
    for change in changes:
        agrees = (change.sign() == elected) & (change != 0)
        total += torch.where(agrees, change, 0)
        count += agrees
    merged = start + total / count.clamp(min=1)
    for key, values in zip(keys, merged.split([fused[key].numel() for key in keys]), strict=True):
        fused[key] = values.view(fused[key].shape).to(fused[key])
    return fused


def _trimmed(change: torch.Tensor, density: float) -> torch.Tensor:
    """The entries of the largest magnitudes, the others 0; whatever ties with the last one stays, too."""
    kept = max(1, math.ceil(density * len(change)))
    smallest = change.abs().kthvalue(len(change) - kept + 1).values
    return torch.where(change.abs() >= smallest, change, 0)


def _weights(state: StateDict) -> Iterator[str]:
    """The keys of the parameters: floating tensors but BatchNorm's statistics and other buffers."""
    for key, tensor in state.items():
        if tensor.is_floating_point() and not _ends(key, _STATISTICS + _OTHER_BUFFERS):
            yield key


def _flat(state: StateDict, keys: Sequence[str]) -> torch.Tensor:
    """The tensors one after another, float64 on the CPU."""
    return torch.cat([state[key].detach().to("cpu", torch.float64).flatten() for key in keys])


def _check(state_dicts: Sequence[StateDict], buffers: str) -> None:
    if not state_dicts:
        raise ValueError("there is nothing to average: no state dict was given")
    if buffers not in ("average", "first"):
        raise ValueError(f"buffers must be 'average' or 'first', got {buffers!r}")
    first = state_dicts[0]
    for index, other in enumerate(state_dicts[1:], start=1):
        if difference := state_difference(first, other):
            raise ValueError(f"state dict {index} does not fit state dict 0: {difference}")


FUSIONS: dict[str, Callable[..., dict[str, torch.Tensor]]] = {
    "average": lambda state_dicts, *, base, buffers: average(state_dicts, buffers=buffers),
    "median": lambda state_dicts, *, base, buffers: median(state_dicts, buffers=buffers),
    "ties": ties,
}
"""Fusion methods by name: functions `(state_dicts, *, base, buffers) -> state dict`."""


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


def distance(state: StateDict, reference: StateDict) -> float:
    """How far fine-tuning moved a network: `|state - reference| / |reference|`, Euclidean, over all parameters.

    Floating tensors only, without buffers (BatchNorm's statistics, Swin's tables), in float64.

    Returns:
        A fraction: 0 for the same weights, 1 for a move as long as the reference itself.

    Raises:
        ValueError: tensors differ (naming the first few), or the reference is all zeros.

    Example:
        >>> distance({"w": torch.tensor([3.0, 5.0])}, {"w": torch.tensor([3.0, 4.0])})
        0.2
    """
    if difference := state_difference(reference, state):
        raise ValueError(f"the state dict does not fit its reference: {difference}")
    moved = length = 0.0
    for key in _weights(reference):
        start = reference[key].detach().double()
        moved += (state[key].detach().to(start) - start).square().sum().item()
        length += start.square().sum().item()
    if length == 0:
        raise ValueError("distance is relative to the reference, whose parameters are all zero")
    return math.sqrt(moved / length)


def state_difference(expected: StateDict, found: StateDict, *, limit: int = 5) -> str:
    """Say in words how the tensors of `found` differ from those of `expected`: missing, not expected, other shape.

    Values and dtypes are not compared. At most `limit` tensors are named, and how many more there are.

    Returns:
        One line for an error message, "" if the names and shapes are the same.

    Example:
        >>> state_difference({"w": torch.zeros(2), "b": torch.zeros(1)}, {"w": torch.zeros(3)})
        'w has shape (3,) instead of (2,); b is missing'
    """
    lines = []
    for key, tensor in expected.items():
        if key not in found:
            lines.append(f"{key} is missing")
        elif found[key].shape != tensor.shape:
            lines.append(f"{key} has shape {tuple(found[key].shape)} instead of {tuple(tensor.shape)}")
    lines += [f"{key} is not expected" for key in found if key not in expected]
    more = [f"and {len(lines) - limit} more"] if len(lines) > limit else []
    return "; ".join(lines[:limit] + more)


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights divided by their sum, checked."""
    if weights is None:
        return [1 / count] * count
    values = [float(weight) for weight in weights]
    if len(values) != count:
        raise ValueError(f"{count} state dicts need {count} weights, got {len(values)}")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"weights must be finite, got {values}")
    if sum(values) <= 0:
        raise ValueError(f"weights must have a sum above 0, got {values}")
    return [value / sum(values) for value in values]


def _ends(key: str, names: tuple[str, ...]) -> bool:
    return key.rpartition(".")[2] in names
