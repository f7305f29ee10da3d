"""Puts the outputs of stored weights into the order that a data set has its classes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

__all__ = ["reordered"]


def reordered(
    network: nn.Module, state: Mapping[str, torch.Tensor], order: Sequence[int], size: tuple[int, int]
) -> dict[str, torch.Tensor] | None:
    """The weights with their outputs in another order.

    The last layer with as many outputs as there are classes is taken, and the result is compared with the network as it
    was; so a network whose outputs come from elsewhere is noticed.

    Args:
        network: takes normalised images; its weights are replaced.
        state: its weights.
        order: for each output of the weights its place in the result.
        size: (height, width) of images that it takes.

    Returns:
        a new state dict; None: no layer was found whose outputs are the network's.
    """
    network.load_state_dict(dict(state))
    network.eval()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    back = torch.as_tensor(order).argsort()
    with torch.no_grad():
        wanted = network(images)[:, back]
        for name, layer in reversed(list(network.named_modules())):
            outputs = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
            if outputs != len(order):
                continue
            own = {f"{name}.{part}" for part, _ in layer.named_parameters(recurse=False)}
            found = {key: value[back].clone() if key in own else value for key, value in state.items()}
            network.load_state_dict(found)
            if torch.allclose(network(images), wanted, rtol=1e-4, atol=1e-5):
                return found
    return None
