"""The import stage: a checkpoint that stands for a stage is checked and taken into the store."""

from __future__ import annotations

from fusiondistill import checkpoints
from fusiondistill.state_dicts import state_difference
from fusiondistill_runner.planning.specs import CheckpointSpec
from fusiondistill_runner.working.data import load_data
from fusiondistill_runner.working.job import Job, Result
from fusiondistill_runner.working.networks import card_for, new_network

__all__ = ["import_checkpoint"]


def import_checkpoint(job: Job) -> Result:
    """Check that an existing checkpoint fits the network and the data.

    Raises:
        CheckpointError: it does not, it is not the checkpoint that the run was planned with, or its network is that of
            another plugin.
    """
    spec = job.stage.spec
    assert isinstance(spec, CheckpointSpec)
    state, card = checkpoints.load_checkpoint(spec.path)
    if checkpoints.checkpoint_digest(spec.path) != spec.sha256:
        raise checkpoints.CheckpointError(
            f"{spec.path} is no longer the checkpoint that this run was planned with: start the run again"
        )
    if card:
        checkpoints.check_card(card, spec.path)
        if card["model"] == spec.model.name:
            checkpoints.check_plugin(card, spec.path)
    images = load_data(spec.data, job.context.root(spec.data), "train")
    if (known := card.get("classes")) not in (None, list(images.classes)):
        raise checkpoints.CheckpointError(
            f"{spec.path} was trained for other classes ({len(known)}: {', '.join(map(str, known[:3]))}, ...) "
            f"than {spec.data.name} has ({len(images.classes)}: {', '.join(images.classes[:3])}, ...)"
        )
    network = new_network(spec.model, images)
    difference = state_difference(network.state_dict(), state)
    if difference and not card:  # a plugin's network may have the names of the released code itself
        written, _ = checkpoints.load_checkpoint(spec.path, as_written=True)
        if not state_difference(network.state_dict(), written):
            state, difference = written, ""
    if difference:
        raise checkpoints.CheckpointError(f"{spec.path} does not fit {spec.model.name}: {difference}")
    ours = card_for(spec.model, images)
    for what in ("mean", "std"):
        if card and any(abs(a - b) > 0.5 for a, b in zip(card[what], ours[what], strict=True)):
            raise checkpoints.CheckpointError(
                f"{spec.path} was trained with {what} {card[what]}, {spec.data.name} has {ours[what]}: "
                f"give data.{what} as the checkpoint has it"
            )
    return Result(
        {checkpoints.MODEL: checkpoints.to_safetensors(state, ours)},
        {"card": ours, "outcome": {"imported": spec.path}},
    )
