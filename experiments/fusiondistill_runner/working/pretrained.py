"""The import stage of pretrained weights: they are taken into the store with a head for the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusiondistill import checkpoints
from fusiondistill.fitting import random_network
from fusiondistill.starting import start_from
from fusiondistill_runner.planning.specs import PretrainedSpec
from fusiondistill_runner.working.data import load_data
from fusiondistill_runner.working.job import Job, Result
from fusiondistill_runner.working.networks import card_for

__all__ = ["makes_head", "take_pretrained"]


def makes_head(published: bool, card: Mapping[str, Any], classes: Sequence[str]) -> bool:
    """Whether a head is made anew even where it has as many outputs: published weights know other classes."""
    return published or (bool(card) and list(card["classes"]) != list(classes))


def take_pretrained(job: Job) -> Result:
    """Fill the network that a run of this seed would start from at random with pretrained weights, except its head.

    Raises:
        CheckpointError: they do not fit it, or are not those that the run was planned with.
    """
    spec = job.stage.spec
    assert isinstance(spec, PretrainedSpec)
    weights = checkpoints.load_checkpoint(spec.path, as_written=True)
    if checkpoints.checkpoint_digest(spec.path) != spec.sha256:
        raise checkpoints.CheckpointError(
            f"{spec.path} holds no longer the weights that this run was planned with: start the run again"
        )
    images, model = load_data(spec.data, job.context.root(spec.data), "train"), spec.model
    classes = len(images.classes)
    network = random_network(model.name, classes, job.stage.seed, model.feature_layer, model.parameters)
    found = start_from(
        network,
        model,
        classes,
        weights,
        spec.path,
        new_head=makes_head(spec.new_head, weights[1], images.classes),
    )
    card = card_for(model, images, spec.data)
    return Result(
        {checkpoints.MODEL: checkpoints.to_safetensors(found.state, card)},
        {"card": card, "outcome": {"imported": spec.path, "weights": list(found.notes)}},
    )
