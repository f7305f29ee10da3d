"""AdaMerging: a scale for each expert and tensor, under which the merged network is sure of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "adamerging",
    needs={"base", "network", "batches"},
    labelled=False,
    passes=lambda values, experts: 3 * experts * values["batch"] * values["steps"],
    source="Yang et al., AdaMerging: adaptive model merging for multi-task learning, ICLR 2024, arXiv:2310.02575",
)
def adamerging(
    experts: Sequence[StateDict],
    at: At,
    *,
    steps: Annotated[int, Field(ge=1, description="steps of the optimiser")] = 500,
    batch: Annotated[int, Field(ge=1, description="images of each degradation in a step")] = 16,
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False, description="learning rate of Adam")] = 1e-3,
    initial: Annotated[float, Field(allow_inf_nan=False, description="the scale that all start from")] = 0.3,
) -> dict[str, torch.Tensor]:
    """Task arithmetic with its own scale for each expert and tensor, found without a label.

    `theta^l = theta_0^l + sum_i c_i^l (theta_i^l - theta_0^l)`; Adam changes the `c_i^l` so that the mean entropy of
    the network's predictions falls. Each step sees training images of every degradation, without their labels.
    BatchNorm normalises by the batch meanwhile, and its statistics are set afterwards, as in all merged networks. The
    scales are found in float32; the weights are worked out in float64 and cast back once. `at.chosen` has the mean
    scale of each expert.
    """
    import torch

    from fusiondistill.merging._images import mixtures
    from fusiondistill.state_dicts import average, changes, parameter_keys

    keys = list(parameter_keys(experts[0]))
    network = _by_batch(at.network(average(experts)))
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    fixed = {key: tensor.detach().clone() for key, tensor in tensors.items() if key not in keys}
    whole = {key: changes(key, experts, at.base) for key in keys}
    device = next(network.parameters()).device
    small = {key: [part.to(device, torch.float32) for part in parts] for key, parts in whole.items()}
    scales = torch.full((len(keys), len(experts)), initial, device=device, requires_grad=True)
    optimiser, stream = torch.optim.Adam([scales], lr=learning_rate), mixtures(at, batch)
    for _ in range(steps):
        weights = {key: s + torch.tensordot(scales[n], m, 1) for n, (key, (s, m)) in enumerate(small.items())}
        logarithms = torch.func.functional_call(network, {**fixed, **weights}, (next(stream),)).log_softmax(1)
        optimiser.zero_grad()
        (-(logarithms.exp() * logarithms).sum(1).mean()).backward()
        optimiser.step()
    found = scales.detach().double()
    mean = {name: round(float(one), 6) for name, one in zip(at.names, found.mean(0), strict=True)}
    at.chosen |= {"scales": mean}
    return {
        key: (start + torch.tensordot(found[n].to(start), moved, 1)).to(experts[0][key].dtype)
        for n, (key, (start, moved)) in enumerate(whole.items())
    }


def _by_batch(network: nn.Module) -> nn.Module:
    """The network with BatchNorm in train mode, all else in eval mode."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in network.eval().modules():
        module.training = isinstance(module, _BatchNorm)
    return network
