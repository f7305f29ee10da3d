"""State dicts of one architecture: their average, how far apart they are, whether they fit, and their statistics.

A state dict holds parameters, which a merging method is responsible for, and buffers: BatchNorm's running statistics,
its counter, and tables that never change. :func:`with_statistics` sets the buffers of a merged network by one rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch

from fusiondistill.shares import shares

__all__ = [
    "Buffers",
    "StateDict",
    "average",
    "changes",
    "check_alike",
    "check_finite",
    "distance",
    "flattened",
    "moved",
    "parameter_keys",
    "state_difference",
    "with_statistics",
]

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
            the first state dict, as the released code of the paper does.

    Returns:
        A new state dict with the first one's dtypes and devices. Integer tensors are the first's.

    Raises:
        ValueError: no state dict, unusable weights, unknown `buffers`, or tensors that differ (naming the first few).

    Example:
        >>> average([{"w": torch.tensor([1.0])}, {"w": torch.tensor([4.0])}], weights=[2, 1])
        {'w': tensor([2.])}
    """
    check_alike(state_dicts)
    _check_buffers(buffers)
    parts = shares(weights, len(state_dicts))
    return {
        key: tensor.detach().clone() if _is_firsts(key, tensor, buffers) else _mean(key, state_dicts, parts)
        for key, tensor in state_dicts[0].items()
    }


def with_statistics(
    merged: StateDict, experts: Sequence[StateDict], statistics: Buffers = "average"
) -> dict[str, torch.Tensor]:
    """The parameters of a merged network, with the buffers that follow from the experts'.

    Args:
        merged: holds every parameter; its other entries are ignored.
        experts: what it was merged from, at least one, all alike.
        statistics: "average" averages BatchNorm's running mean and variance over the experts, "first" takes the first
            expert's. Other floating buffers are averaged, integer ones are the first's.

    Returns:
        A new state dict with the first expert's keys, dtypes and devices.

    Raises:
        ValueError: a parameter is missing, or `statistics` is unknown.

    Example:
        >>> experts = [{"w": torch.ones(1), "running_var": torch.tensor([v])} for v in (1.0, 3.0)]
        >>> with_statistics({"w": torch.tensor([5.0])}, experts)
        {'w': tensor([5.]), 'running_var': tensor([2.])}
    """
    _check_buffers(statistics)
    parts, first = shares(None, len(experts)), experts[0]
    own = set(parameter_keys(first))
    if missing := [key for key in own if key not in merged]:
        raise ValueError(f"the merged network lacks {', '.join(sorted(missing)[:5])}")
    found = {}
    for key, tensor in first.items():
        if key in own:
            found[key] = merged[key].detach().clone().to(tensor)
        elif _is_firsts(key, tensor, statistics):
            found[key] = tensor.detach().clone()
        else:
            found[key] = _mean(key, experts, parts)
    return found


def _is_firsts(key: str, tensor: torch.Tensor, buffers: Buffers) -> bool:
    """Whether a tensor is taken from the first state dict and not averaged."""
    return not tensor.is_floating_point() or (buffers == "first" and _ends(key, _STATISTICS))


def _mean(key: str, states: Sequence[StateDict], parts: Sequence[float]) -> torch.Tensor:
    """The weighted sum of one tensor over networks, in float64 and cast back once."""
    first = states[0][key]
    total = torch.zeros(first.shape, dtype=torch.float64, device=first.device)
    for share, state in zip(parts, states, strict=True):
        total += share * state[key].detach().to(first.device, torch.float64)
    return total.to(first.dtype)


def parameter_keys(state: StateDict) -> Iterator[str]:
    """The keys of the parameters: floating tensors but BatchNorm's statistics and other buffers."""
    for key, tensor in state.items():
        if tensor.is_floating_point() and not _ends(key, _STATISTICS + _OTHER_BUFFERS):
            yield key


def changes(key: str, states: Sequence[StateDict], base: StateDict) -> tuple[torch.Tensor, torch.Tensor]:
    """One tensor of the base, and how far each network went from it: float64 [...] and [N, ...], on its device."""
    start = base[key].detach().to(states[0][key].device, torch.float64)
    return start, torch.stack([state[key].detach().to(start) - start for state in states])


def moved(
    states: Sequence[StateDict], base: StateDict, change: Callable[[str, torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The base with a change of each parameter, worked out in float64 and cast back once.

    Args:
        states: of the networks that started from the base; dtypes and devices are the first one's.
        change: (name, how far each network went, float64 [N, ...]) -> float64 [...].
    """
    found = {}
    for key in parameter_keys(states[0]):
        start, gone = changes(key, states, base)
        found[key] = (start + change(key, gone)).to(states[0][key].dtype)
    return found


def flattened(state: StateDict, keys: Sequence[str]) -> torch.Tensor:
    """The tensors of these keys one after another, float64 [n] on the CPU."""
    return torch.cat([state[key].detach().to("cpu", torch.float64).flatten() for key in keys])


def check_alike(state_dicts: Sequence[StateDict], whose: Sequence[str] = ()) -> None:
    """Raise ValueError where networks cannot be merged.

    That is: there is none; tensors differ in name or shape (the first few are named); or a tensor differs that is not
    of floating numbers in all of them, like quantised or complex weights. Counters (one whole number) may differ.

    Args:
        state_dicts: of the networks.
        whose: what messages call each; default: "state dict 0", ...
    """
    if not state_dicts:
        raise ValueError("there is nothing to merge: no state dict was given")
    names = whose or [f"state dict {index}" for index in range(len(state_dicts))]
    for name, other in zip(names[1:], state_dicts[1:], strict=True):
        if difference := state_difference(state_dicts[0], other):
            raise ValueError(f"{name} does not fit {names[0]}: {difference}")
        for key, one in state_dicts[0].items():
            if not _mergeable(one, found := other[key]):
                kinds = " and ".join(dict.fromkeys(str(t.dtype).removeprefix("torch.") for t in (one, found)))
                raise ValueError(
                    f"{name} and {names[0]} differ in {key}, which holds {kinds} numbers: only floating weights can be "
                    f"merged; store {key} as float32 in all of them"
                )


def _mergeable(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of a shape can be averaged, or are the same, or are counters."""
    if one.is_floating_point() and other.is_floating_point():
        return True
    if one.numel() == 1 and not any(t.is_floating_point() or t.is_complex() for t in (one, other)):
        return True  # told before values are read, which would wait for a GPU at each counter
    return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())


_DAMAGED = "its training diverged, it is damaged, or they are beyond the range of float32: leave it out"


def check_finite(state: StateDict, whose: str, why: str = _DAMAGED) -> None:
    """Raise ValueError where a parameter or a BatchNorm statistic is NaN or infinite, or too large for float32.

    Args:
        state: a state dict.
        whose: opens the message, like "state dict 2".
        why: ends it: the cause, and what to do.

    Raises:
        ValueError: that, or a variance of BatchNorm is below 0; the message names the tensor.
    """
    for key, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()) or _ends(key, _OTHER_BUFFERS):
            continue
        values = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().float()
        if not bool(values.isfinite().all()):
            raise ValueError(f"{whose} has values that are not finite in {key}: {why}")
        if _ends(key, ("running_var",)) and bool((values < 0).any()):
            raise ValueError(f"{whose} has variances below 0 in {key}: {why}")


def _check_buffers(buffers: str) -> None:
    if buffers not in ("average", "first"):
        raise ValueError(f"buffers must be 'average' or 'first', got {buffers!r}")


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
    for key in parameter_keys(reference):
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


def _ends(key: str, names: tuple[str, ...]) -> bool:
    return key.rpartition(".")[2] in names
