"""The loss of a network, and the loss on the straight way between networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fusiondistill.data import ImageSet
from fusiondistill.recalibration import recalibrate_batchnorm
from fusiondistill.state_dicts import average
from fusiondistill_runner.working.networks import of_card

__all__ = ["ALPHAS", "Batches", "mean_loss", "surface"]

ALPHAS = (0.0, 0.25, 0.5, 0.75)
"""Shares of the merged network at which the loss is computed, from a member alone on; the merged network comes last."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def mean_loss(network: nn.Module, batches: Batches) -> float:
    """Mean cross-entropy of a network over labelled batches, in nats."""
    total, count = 0.0, 0
    for pixels, labels in batches:
        total += float(nn.functional.cross_entropy(network(pixels), labels, reduction="sum"))
        count += len(labels)
    return total / count


def surface(
    members: Mapping[str, dict[str, torch.Tensor]],
    merged: nn.Module,
    card: dict[str, Any],
    device: torch.device,
    *,
    training: ImageSet,
    judged: ImageSet,
    mixed: Callable[[ImageSet], Batches],
    seen: Callable[[ImageSet], Iterable[torch.Tensor]],
) -> dict[str, list[list[float]]]:
    """The loss on the straight way from each member to the merged network: member -> rows of (alpha, nats).

    Alpha is the share of the merged network. BatchNorm is recomputed at every point (interpolated statistics fit no
    network on the way), on 256 degraded training images as ``seen`` gives them. The loss is that on 500 of the degraded
    images that the stage judges by. So few images keep the curve cheap, and its ends are near the losses of the stage,
    not equal to them.
    """

    def few(of: ImageSet, count: int) -> ImageSet:
        return of.at_most(max(2, count // len(members)))

    sample, judged_on = list(seen(few(training, 256))), list(mixed(few(judged, 500)))
    end = {name: tensor.cpu() for name, tensor in merged.state_dict().items()}

    def loss(state: dict[str, torch.Tensor]) -> float:
        network = of_card(card, state, device)
        return mean_loss(recalibrate_batchnorm(network, sample), judged_on)

    last = [1.0, loss(end)]
    return {
        name: [*([alpha, loss(average([state, end], [1 - alpha, alpha]))] for alpha in ALPHAS), last]
        for name, state in members.items()
    }
