"""The networks of stages: built as a config names them, filled with weights of other stages, described by a card."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fusiondistill import checkpoints
from fusiondistill.config import ModelConfig
from fusiondistill.data import ImageSet
from fusiondistill.models.build import build
from fusiondistill.models.network import FeatureNetwork
from fusiondistill.state_dicts import StateDict, state_difference
from fusiondistill_runner.working.data import image_size

__all__ = ["card_for", "filled", "new_network", "of_card"]


def new_network(model: ModelConfig, images: ImageSet) -> FeatureNetwork:
    """The network of a config with a head for these classes; draws its weights from torch's generator."""
    return build(model.name, len(images.classes), model.feature_layer, model.parameters)


def filled(network: FeatureNetwork, state: StateDict, source: str) -> FeatureNetwork:
    """Give a network the weights of a stage.

    Args:
        source: where they come from, for the message.

    Raises:
        CheckpointError: they do not fit; names the first tensors that differ.
    """
    if difference := state_difference(network.state_dict(), state):
        raise checkpoints.CheckpointError(f"the weights of {source} do not fit the network: {difference}")
    network.load_state_dict(dict(state))
    return network


def of_card(card: dict[str, Any], state: StateDict, device: torch.device) -> nn.Module:
    """The network that a card describes with these weights, in eval mode."""
    return checkpoints.from_card(state, card).network.to(device).eval()


def card_for(model: ModelConfig, images: ImageSet) -> dict[str, Any]:
    """The card of a checkpoint trained on these images."""
    return checkpoints.card_of(
        model.name,
        model.feature_layer,
        classes=list(images.classes),
        mean=tuple(images.mean),
        std=tuple(images.std),
        size=image_size(images),
        dataset=images.name,
        parameters=model.parameters,
    )
