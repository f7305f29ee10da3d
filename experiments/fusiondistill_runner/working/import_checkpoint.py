"""The import stage: a checkpoint that stands for a stage is checked and taken into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusiondistill import checkpoints
from fusiondistill.data import class_names
from fusiondistill.models.class_order import reordered
from fusiondistill_runner.planning.specs import CheckpointSpec
from fusiondistill_runner.working.data import load_data
from fusiondistill_runner.working.job import Job, Result
from fusiondistill_runner.working.networks import card_for, new_network

if TYPE_CHECKING:
    import torch

    from fusiondistill.data import ImageSet
    from fusiondistill.models.network import FeatureNetwork

__all__ = ["import_checkpoint"]


def import_checkpoint(job: Job) -> Result:
    """Check that an existing checkpoint fits the network and the data.

    Raises:
        CheckpointError: it does not, it is not the checkpoint that the run was planned with, or its network is that of
            another plugin.
    """
    spec = job.stage.spec
    assert isinstance(spec, CheckpointSpec)
    written, card = checkpoints.load_checkpoint(spec.path, as_written=True)
    if checkpoints.checkpoint_digest(spec.path) != spec.sha256:
        raise checkpoints.CheckpointError(
            f"{spec.path} is no longer the checkpoint that this run was planned with: start the run again"
        )
    images = load_data(spec.data, job.context.root(spec.data), "train")
    network = new_network(spec.model, images)
    found = checkpoints.fitted(written, card, spec.path, spec.model.name, network.state_dict())
    state = found.state
    if (known := card.get("classes")) not in (None, list(images.classes)):
        state = _by_name(spec, state, list(known), images, network)
    ours = card_for(spec.model, images, spec.data)
    for what in ("mean", "std"):
        if card and any(abs(a - b) > 0.5 for a, b in zip(card[what], ours[what], strict=True)):
            raise checkpoints.CheckpointError(
                f"{spec.path} was trained with {what} {card[what]}, {spec.data.name} has {ours[what]}: "
                f"give data.{what} as the checkpoint has it"
            )
    return Result(
        {checkpoints.MODEL: checkpoints.to_safetensors(state, ours)},
        {"card": ours, "outcome": {"imported": spec.path, **({"names": list(found.notes)} if found.notes else {})}},
    )


def _by_name(
    spec: CheckpointSpec, state: dict[str, torch.Tensor], known: list[str], images: ImageSet, network: FeatureNetwork
) -> dict[str, torch.Tensor]:
    """The weights with their outputs in the data set's order of classes.

    Raises:
        CheckpointError: these are other classes, or the layer of the outputs cannot be found.
    """
    order = class_names.permutation(known, images.classes)
    if order is None:
        difference = class_names.difference(known, images.classes)
        raise checkpoints.CheckpointError(
            f"{spec.path} was trained for other classes than {spec.data.name} has: {difference}"
        )
    found = reordered(network, state, order, images.size)
    if found is None:
        raise checkpoints.CheckpointError(
            f"{spec.path} has the classes of {spec.data.name} in another order, and the layer that gives the outputs "
            f"of {spec.model.name} cannot be found: give images whose classes have the checkpoint's order"
        )
    return found
