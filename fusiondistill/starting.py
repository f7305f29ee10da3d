"""A start from pretrained weights: those that fit the network, and a new head for the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fusiondistill.checkpoints import fitted
from fusiondistill.commits import CheckpointError
from fusiondistill.config import ModelConfig
from fusiondistill.foreign import Matched, Unmatched, matched
from fusiondistill.models.build import build
from fusiondistill.models.network import FeatureNetwork
from fusiondistill.networks import NETWORKS
from fusiondistill.state_dicts import state_difference

__all__ = ["Start", "built", "finished", "head_of", "other_classes", "shapes_of", "start_from"]


@dataclass(frozen=True)
class Start:
    """Weights to start a training from.

    Attributes:
        state: the network's whole state dict.
        head: names of the head's tensors that are as the network was built with them, at random.
        notes: what was done, a few words each.
    """

    state: dict[str, torch.Tensor]
    head: tuple[str, ...]
    notes: tuple[str, ...]


def built(model: ModelConfig, classes: int) -> FeatureNetwork:
    """The network of a config with weights at random; torch's generator stays as it is.

    Raises:
        ValueError: as :func:`fusiondistill.build_model`.
    """
    with torch.random.fork_rng([]):
        return build(model.name, classes, model.feature_layer, model.parameters)


def shapes_of(model: ModelConfig, classes: int) -> dict[str, torch.Tensor]:
    """The state dict of a network of a config, on torch's meta device where it can be built, which has shapes alone."""
    try:
        with torch.device("meta"):
            return built(model, classes).state_dict()
    except Exception:  # a network may compute with its weights while it is built
        return built(model, classes).state_dict()


def head_of(model: ModelConfig, classes: int) -> tuple[str, ...]:
    """The tensors of a network whose shapes depend on the number of classes.

    Two networks are built, one with a class more; torch's generator stays as it is.
    """
    one, more = shapes_of(model, classes), shapes_of(model, classes + 1)
    return tuple(key for key, tensor in one.items() if key not in more or more[key].shape != tensor.shape)


def other_classes(model: ModelConfig, source: str) -> str:
    """What to do with a checkpoint whose head is that of other classes, in a sentence."""
    return f"To start from it with a new head, write model: {{name: {model.name}, weights: {source}}} into a config"


def finished(
    network: FeatureNetwork,
    model: ModelConfig,
    classes: int,
    weights: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]],
    source: str,
) -> Matched:
    """The weights of a checkpoint that stands for a finished network of these classes.

    Args:
        network: as built for ``model``.
        weights: (state dict, card) of the checkpoint, ``as_written``.
        source: where they come from, for messages.

    Raises:
        CheckpointError: they do not fit; where it is the head alone, the message says how to start from the rest.
    """
    state, card = weights
    try:
        return fitted(state, card, source, model.name, network.state_dict())
    except CheckpointError as error:
        try:
            fitted(state, card, source, model.name, network.state_dict(), optional=head_of(model, classes))
        except CheckpointError:
            raise error from None
        raise CheckpointError(f"{error}. {other_classes(model, source)}") from error


def start_from(
    network: FeatureNetwork,
    model: ModelConfig,
    classes: int,
    weights: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]],
    source: str,
    *,
    new_head: bool = False,
) -> Start:
    """The weights that a network of these classes starts from.

    Args:
        network: as built for ``model``, with initial weights; its head is taken where a new one is needed.
        weights: (state dict, card) of a checkpoint, ``as_written``; of the same network, with any number of outputs.
        source: where they come from, for messages.
        new_head: make the head anew even where it has as many outputs.

    Raises:
        CheckpointError: the weights are those of another network; the message says what was tried.
    """
    given, card = weights
    own, head = network.state_dict(), head_of(model, classes)
    try:
        found = fitted(given, card, source, model.name, own, optional=head)
    except CheckpointError as error:
        adapted = _adapted(model, classes, given, own, head)
        if adapted is None:
            raise CheckpointError(f"{error}; without regard to its head") from error
        state = adapted
        notes: tuple[str, ...] = ("tensors of other shapes adapted by the network's library",)
    else:
        state, notes = found.state, found.notes
    kept = {key: tensor for key, tensor in state.items() if not (new_head and key in head)}
    lacking = tuple(key for key in own if key not in kept)
    told = (f"new head: {', '.join(lacking)}",) if lacking else ("its head is kept",) if head else ()
    whole = {key: kept[key] if key in kept else tensor.detach().cpu().clone() for key, tensor in own.items()}
    return Start(whole, lacking, (*notes, *told))


def _adapted(
    model: ModelConfig,
    classes: int,
    given: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    head: tuple[str, ...],
) -> dict[str, torch.Tensor] | None:
    """The weights as the network's library adapts them to its shapes, without the head; None: it cannot."""
    try:
        there = matched(own, given, optional=head, shapes=False).state
        with torch.random.fork_rng([]):
            changed = NETWORKS.provider(model.name).adapted(model.name, classes, there, model.parameters)
    except (Unmatched, RuntimeError):
        return None
    return None if state_difference(own, changed) else {k: t for k, t in changed.items() if k not in head}
