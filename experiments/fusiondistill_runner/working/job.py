"""What the function of a kind of stage gets from the worker, and what it returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from fusiondistill import checkpoints
from fusiondistill.folding import for_inference
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.progress import ProgressWriter
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context, Report

__all__ = ["Inputs", "Job", "Result", "Team", "never"]


def never() -> bool:
    """The default of ``closing``: the run is not about to end."""
    return False


@dataclass(frozen=True)
class Team:
    """The workers that do one stage together, and this one's place among them."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class Result:
    """What a stage came to.

    Attributes:
        files: name -> content.
        facts: what its manifest tells besides when and where it was done: ``outcome``, ``card``, ...
    """

    files: Mapping[str, bytes]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Inputs:
    """The results that a stage is made from; each is read from the store when it is asked for.

    Args:
        stage: whose inputs they are.
        store: holds them.
        make: makes a merge that is not stored: a search may choose one that no plan has.
    """

    def __init__(self, stage: Stage, store: Store, make: Callable[[Stage], None]) -> None:
        self._stage, self._store, self._make = stage, store, make

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Role -> stage."""
        return self._stage.inputs

    def weights(self, role: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The state dict and the card of an input."""
        return self._store.weights(self._stage.inputs[role])

    def card(self, role: str) -> dict[str, Any]:
        """The card of an input: its network, classes and normalisation."""
        manifest = self._store.manifest_of(self._stage.inputs[role].directory)
        card: dict[str, Any] = (manifest or {})["card"]
        return card

    def weights_of(self, stage: Stage) -> dict[str, torch.Tensor]:
        """The state dict of a stage that stands for an input."""
        self._make(stage)
        return self._store.weights(stage)[0]

    def found(self, role: str) -> dict[str, Any]:
        """The values of a search's best candidate; none where there is no such input."""
        if role not in self._stage.inputs:
            return {}
        values: dict[str, Any] = json.loads(self._store.read(self._stage.inputs[role], "best.json"))["values"]
        return values

    def classifiers(self, device: torch.device, precision: str) -> dict[str, nn.Module]:
        """Role -> the network of each input, ready to judge images; the process keeps those that it had last."""
        place = self._store.location
        return {
            role: _classifier(place, one.directory, one.digest, str(device), precision)
            for role, one in self._stage.inputs.items()
        }


@lru_cache(maxsize=12)
def _classifier(store: str, directory: str, digest: str, device: str, precision: str) -> nn.Module:
    place = Store(store)
    manifest = place.manifest_of(directory)
    if manifest is None or manifest["digest"] != digest:
        raise checkpoints.CheckpointError(f"{directory} is not stored in {store}")
    data = place.read_from(directory, checkpoints.MODEL)
    state, card = checkpoints.parse_weights(data, f"{directory}/{checkpoints.MODEL}")
    return for_inference(checkpoints.model_of(state, card, directory), precision=precision).to(device)


@dataclass(frozen=True)
class Job:
    """A stage with all that its function needs.

    Attributes:
        stage: the stage.
        context: where it runs.
        device: what it computes on.
        inputs: the results that it is made from.
        progress: stores the epochs of a training.
        report: told how far it is.
        closing: asked whether the run is about to end, so that the current epoch has to be stored.
        team: the workers that do it together.
        until: a training stops after this epoch; None: goes to its end.
    """

    stage: Stage
    context: Context
    device: torch.device
    inputs: Inputs
    progress: ProgressWriter
    report: Report
    closing: Callable[[], bool] = never
    team: Team = Team()
    until: int | None = None
