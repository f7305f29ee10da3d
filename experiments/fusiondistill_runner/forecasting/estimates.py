"""Estimates of what stages will take, from stored stages or measured speeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from fusiondistill.checkpoints import MANIFEST, CheckpointError
from fusiondistill.config import ModelConfig
from fusiondistill_runner.forecasting.traffic import network_of
from fusiondistill_runner.planning.specs import DataSpec, Spec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.store import Store

if TYPE_CHECKING:
    from fusiondistill_runner.forecasting.speeds import Speeds

__all__ = ["Estimates", "measured", "size_of"]

Kind = tuple[str, ...]


@dataclass
class Estimates:
    """Seconds per unit of work, by what a stage does.

    Attributes:
        rates: of stored stages.
        speeds: of this machine, for stages that are like none that is stored; None: those stay unknown.
    """

    rates: dict[Kind, list[float]] = field(default_factory=dict)
    speeds: Speeds | None = None

    def learn(self, stage: Stage, seconds: float) -> None:
        """Note that one worker needed so many seconds for a stage."""
        for kind in _kinds(stage):
            self.rates.setdefault(kind, []).append(seconds / size_of(stage))

    def seconds(self, stage: Stage) -> float | None:
        """The estimated seconds of one worker; None where nothing tells.

        Stored stages of the same name come first (they differ in seed or settings alone), then those of the same kind
        with the same network and data set, then the speeds of this machine.
        """
        found = self.of_stored(stage)
        return self.speeds.seconds(stage) if found is None and self.speeds else found

    def of_stored(self, stage: Stage) -> float | None:
        """The same from stored stages alone."""
        for kind in _kinds(stage):
            if rates := self.rates.get(kind):
                return size_of(stage) * sum(rates) / len(rates)
        return None

    def told_by(self, stages: Iterable[Stage]) -> str:
        """Where the known times of these stages come from, in words."""
        known = [stage for stage in stages if self.seconds(stage) is not None]
        stored = sum(self.of_stored(stage) is not None for stage in known)
        sources = ["the measured times of stored stages"] if stored else []
        if stored < len(known) and self.speeds and self.speeds.since:
            sources.append(f"a few seconds of work measured on this machine ({self.speeds.since})")
        return " and ".join(sources)


def size_of(stage: Stage) -> float:
    """A stage's work in a unit that its seconds are proportional to: passes, times images where these are limited."""
    return stage.work * (stage.spec.data.limit(stage.spec.split) or 1)


def _kinds(stage: Stage) -> list[Kind]:
    """The keys that this stage's measurements are kept under, the most specific first."""
    spec = stage.spec
    limited = "all" if spec.data.limit(spec.split) is None else "some"
    same = (stage.kind, _titled(spec.data), limited, _network(stage))
    teachers = ""
    if spec.training:
        teachers = "taught" if spec.training.recipe.loss.needs.teacher else "alone"
    return [(*same, stage.name), (*same, teachers)]


def _network(stage: Stage) -> str:
    """The network that a stage runs; empty where its inputs are not stored any more."""
    try:
        return _titled(network_of(stage)[0])
    except StopIteration:
        return ""


def _titled(named: DataSpec | ModelConfig) -> str:
    """A name with its parameters, which make another data set or another network of it."""
    return " ".join([named.name, *(f"{key}={value}" for key, value in sorted(named.parameters.items()))])


def measured(store: Store) -> Estimates:
    """Estimates from all stages of a store, of any config."""
    estimates, store = Estimates(), store.glance(MANIFEST)
    found: dict[str, Stage | None] = {}
    for directory in store.directories():
        stage = _stored_stage(store, directory, found)
        manifest = store.manifest_of(directory) if stage else None
        if stage and manifest and stage.kind != "import":
            # Of a search or a resumed training the seconds of training count, not those from its start to its end.
            estimates.learn(stage, manifest.get("training_seconds", manifest["seconds"]))
    return estimates


def _stored_stage(store: Store, directory: str, found: dict[str, Stage | None]) -> Stage | None:
    """The stage that a directory's manifest describes; None where there is no readable manifest."""
    if directory not in found:
        found[directory] = None
        with contextlib.suppress(CheckpointError, ValidationError, KeyError):
            manifest = store.manifest_of(directory)
            if manifest is not None:
                spec = _SPECS[manifest["kind"]].model_validate(manifest["spec"])
                inputs = {role: _stored_stage(store, name, found) for role, name in manifest["inputs"].items()}
                there = {role: stage for role, stage in inputs.items() if stage is not None}
                found[directory] = Stage(manifest["name"], manifest["seed"], spec, there)
    return found[directory]


_SPECS: dict[str, Any] = {spec.kind: spec for spec in get_args(Spec)}
