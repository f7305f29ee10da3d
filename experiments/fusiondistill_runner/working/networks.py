"""The networks of stages: built as a config names them, filled with weights of other stages, described by a card."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import nn

from fusiondistill import checkpoints
from fusiondistill.config import ModelConfig
from fusiondistill.data import ImageSet
from fusiondistill.data.preparation import Preparation
from fusiondistill.data.reading import Background, Bits
from fusiondistill.models.build import build
from fusiondistill.models.network import FeatureNetwork
from fusiondistill.state_dicts import StateDict, state_difference
from fusiondistill_runner.planning.specs import DataSpec

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


def card_for(model: ModelConfig, images: ImageSet, data: DataSpec) -> dict[str, Any]:
    """The card of a checkpoint trained on these images, which were loaded as ``data`` says."""
    return checkpoints.card_of(
        model.name,
        model.feature_layer,
        classes=list(images.classes),
        mean=tuple(images.mean),
        std=tuple(images.std),
        size=images.size,
        dataset=images.name,
        parameters=model.parameters,
        **_prepared(data),
    )


def _prepared(data: DataSpec) -> dict[str, Any]:
    """What a card says of how the images were made of files; what a parameter of a source means, its type says."""
    entry, usual = data.entry(), Preparation()
    assert entry is not None
    fields = entry.parameters.model_fields
    kinds = {"background": get_args(Background)[0], "bits": get_args(Bits)[0]}
    told = {key: data.parameters[key] for key in kinds if key in fields and fields[key].annotation == kinds[key]}
    found = {key: value for key, value in told.items() if value != getattr(usual, key)}
    return {"fit": data.fit, **found} if data.size else found
