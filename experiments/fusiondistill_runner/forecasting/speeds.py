"""What stages take on this machine, from a few seconds of measured work, which is noted in the cache folder.

A stage is made of parts that are measured once each: steps of a kind of training, forward passes of a network, a
degradation. Its seconds are those of its parts times what its spec says of epochs, images and levels.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fusiondistill.bench import torch_threads
from fusiondistill.code import code_digest
from fusiondistill.config import ModelConfig
from fusiondistill.data import ImageSet
from fusiondistill.data.files import cache_folder, recalled, remember
from fusiondistill.evaluation import Conditions
from fusiondistill.fitting import random_network
from fusiondistill.folding import for_inference
from fusiondistill.inference import INFERENCE, At
from fusiondistill.merging import MERGING
from fusiondistill.models import ImageClassifier
from fusiondistill.networks import NETWORKS
from fusiondistill.progress import Progress
from fusiondistill.speed import degrading_seconds, judging_seconds, training_speed
from fusiondistill_runner.forecasting.traffic import network_of
from fusiondistill_runner.planning.levels import spread
from fusiondistill_runner.planning.specs import (
    EvaluateSpec,
    FitSpec,
    MergeSpec,
    PackSpec,
    TrainSpec,
    ValidateSpec,
)
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.data import load_data, splits
from fusiondistill_runner.working.facts import processor
from fusiondistill_runner.working.merge import CANDIDATE, JUDGED
from fusiondistill_runner.working.surface import ALPHAS
from fusiondistill_runner.working.train import pack, training_of

__all__ = ["SECONDS", "Speeds", "machine_name"]

SECONDS = 1.0
"""For the steps of one kind of training; a third of it for forward passes or a degradation."""
START = {"train": 0.3, "fuse": 0.5, "fit": 0.5, "pack": 0.2, "evaluate": 0.15, "validate": 0.15, "search": 1.0}
"""Seconds of a stage besides its work: reading inputs, building networks, committing. From whole local runs."""
FITTED = 64
"""Images (at most) on which the fit of a part is timed."""
LEVELS = 5
"""Levels at which a degradation is timed."""
SURFACE_IMAGES = 256 + 500
"""Images of each point of a merge's loss surface."""

_NOT_IN_SPEED = {"epochs", "schedule", "class_weights", "sampling", "largest_cutout", "pairing", "coupled_draws"}
"""Keys of a recipe that change no step's time."""

Say = Callable[[str], None]


def machine_name(device: torch.device) -> str:
    """What measures, in words: the GPU, or the processor with its number of cores."""
    cores = f"{processor()}, {os.cpu_count()} cores"
    return f"{torch.cuda.get_device_name(device)} ({cores})" if device.type == "cuda" else cores


@dataclass(frozen=True)
class _Part:
    """Something that is measured once.

    Attributes:
        label: its name for readers.
        key: all that its speed depends on, JSON-able.
        measure: seconds to spend -> the seconds of each unit of work, by name.
    """

    label: str
    key: Mapping[str, Any]
    measure: Callable[[float], dict[str, float]]


@dataclass
class Speeds:
    """The measured speeds of one machine; those that the cache holds are found there.

    Args:
        context: of the stages that are asked for.
        device: what they are done on.
    """

    context: Context
    device: torch.device
    _known: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    _seconds: dict[str, float | None] = field(default_factory=dict)

    def seconds(self, stage: Stage) -> float | None:
        """The estimated seconds of one worker (of a search: of all its trials); None where a part was not measured."""
        if stage.kind == "import":
            return 0.0
        if not self._known and not self._any:
            return None  # without a look at what the stage needs
        if stage.digest not in self._seconds:
            self._seconds[stage.digest] = self._of_parts(stage)
        return self._seconds[stage.digest]

    @cached_property
    def _any(self) -> bool:
        """Whether anything was noted before."""
        return any(_folder().glob("*.json"))

    def _of_parts(self, stage: Stage) -> float | None:
        found = {name: self._noted(part) for name, part in self._parts(stage)}
        if any(facts is None for facts in found.values()):
            return None
        each = {name: facts["seconds"] for name, facts in found.items() if facts is not None}
        return START[stage.kind] + self._work(stage, each)

    def measure(self, stages: Iterable[Stage], say: Say, seconds: float = SECONDS) -> None:
        """Measure what these stages need and nothing tells yet, and note it.

        Args:
            say: called with each thing that is measured.
            seconds: for the steps of one kind of training.
        """
        for stage in stages:
            for _, part in self._parts(stage):
                if self._noted(part) is None:
                    say(part.label)
                    with torch_threads(getattr(stage.spec.training or stage.spec, "threads", 1)):
                        given = part.measure(seconds)
                    facts = {"seconds": given, "when": datetime.now().astimezone().isoformat(timespec="minutes")}
                    remember(_place(part.key), {**facts, "of": dict(part.key)})
                    self._known[_name(part.key)] = facts
                    self._seconds.clear()

    @property
    def since(self) -> str:
        """The day of the oldest measurement that was used."""
        return min((facts["when"][:10] for facts in self._known.values() if facts), default="")

    def _noted(self, part: _Part) -> Mapping[str, Any] | None:
        name = _name(part.key)
        if name not in self._known:
            self._known[name] = recalled(_place(part.key))
        return self._known[name]

    def _parts(self, stage: Stage) -> Iterator[tuple[str, _Part]]:
        """The parts of a stage by what :meth:`_work` calls them."""
        spec = stage.spec
        if spec.training is not None:
            yield "steps", self._steps(spec.training)
            return
        model = network_of(stage)[0]
        if isinstance(spec, EvaluateSpec):
            images = load_data(spec.data, self.context.root(spec.data), "test")
            yield "forward", self._forward(model, images, spec.precision, spec.threads)
            if spec.corruption is None:
                yield "degrade", self._degrading(images, spec)
        elif isinstance(spec, FitSpec):
            yield "fit", self._fitting(spec)
        elif isinstance(spec, MergeSpec | ValidateSpec):
            images, _ = splits(spec.data, self.context.root(spec.data), "validation")
            yield "forward", self._forward(model, images, "fp32", spec.threads)

    def _work(self, stage: Stage, each: Mapping[str, Mapping[str, float]]) -> float:
        """Seconds of the parts of a stage, times how often they come."""
        spec = stage.spec
        if spec.training is not None:
            return spec.trainings * spec.part * self._training(spec.training, each["steps"])
        root = self.context.root(spec.data)
        if isinstance(spec, PackSpec):
            return 0.0
        if isinstance(spec, FitSpec):
            count = len(splits(spec.data, root, "validation")[0])
            return each["fit"]["image"] * min(count, spec.parameters.get("images", count))
        forward = each["forward"]["image"]
        if isinstance(spec, ValidateSpec):
            _, held_out = splits(spec.data, root, "validation")
            return forward * len(held_out or ()) * (1 + spec.draws * len(spec.degradations))
        if isinstance(spec, MergeSpec):
            images, held_out = splits(spec.data, root, "validation")
            judged = min(JUDGED, len(images)) if held_out is None else len(held_out)
            several = 1 if spec.told else len(spec.degradations)
            seen = several * (min(spec.images, len(images)) if spec.recalibrate == "mixed" else 0)
            seen += (len(stage.inputs) + 1) * several * judged
            entry, experts = MERGING[spec.merge], len(spec.degradations)
            candidates, passes = entry.work(entry.resolve(spec.parameters), experts)
            sample = CANDIDATE if spec.recalibrate == "mixed" else 0
            seen += candidates * experts * (len(held_out or ()) + min(sample, len(images))) + passes
            return forward * (seen + (len(ALPHAS) * len(spec.degradations) + 1) * SURFACE_IMAGES)
        assert isinstance(spec, EvaluateSpec)
        views = len(load_data(spec.data, root, "test")) * len(spec.levels)
        return views * (len(stage.inputs) * forward + each.get("degrade", {}).get("image", 0.0))

    def _training(self, spec: TrainSpec, each: Mapping[str, float]) -> float:
        """Seconds of one training, on each of the workers that share it."""
        training = training_of(spec, self.context.root(spec.data), self.device)
        several = max(1, len(spec.degradations))
        images = several * len(training.images) / spec.world_size
        validated = several * len(training.held_out or ())
        return spec.epochs * (images * each["image"] + validated * each["validated"] + each["epoch"])

    def _steps(self, spec: TrainSpec) -> _Part:
        root, taught = self.context.root(spec.data), spec.recipe.loss.needs.teacher
        training = training_of(spec, root, self.device, capture=self.context.capture)
        recipe = spec.recipe.model_dump(mode="json", exclude=_NOT_IN_SPEED)
        recipe["optimizer"], recipe["loss"] = spec.recipe.optimizer.name, sorted(spec.recipe.loss.weighted)
        seen = [one.model_dump(mode="json") for one in spec.degradations]
        key = self._key("steps", spec.model, training.images, spec.threads)
        key |= {"recipe": recipe, "degradations": seen, "protocol": spec.protocol}
        if spec.together:
            key["taught_by"] = [spec.taught_by, spec.teachers]
        if self.device.type == "cuda":
            key["capture"] = self.context.capture

        def measure(seconds: float) -> dict[str, float]:
            network, *teachers = (_network(spec.model, training.images) for _ in range(1 + len(training.taught)))
            found = training_speed(training, network, teachers, seconds=seconds)
            stored = min(_stored(found.progress) for _ in range(3))
            return {"image": found.image, "validated": found.validated, "epoch": found.epoch + stored}

        ids = ", ".join(one.id for one in spec.degradations) or "clean images"
        label = f"{spec.model.name} on {ids}{', taught' if taught else ''} ({spec.recipe.optimizer.name})"
        return _Part(f"steps of {label}", key, measure)

    def _forward(self, model: ModelConfig, images: ImageSet, precision: str, threads: int) -> _Part:
        key = {**self._key("forward", model, images, threads), "precision": precision}
        batch = self.context.evaluation_batch

        def measure(seconds: float) -> dict[str, float]:
            classifier = ImageClassifier(_network(model, images), images.mean, images.std, images.classes).eval()
            fast = for_inference(classifier, precision=precision).to(self.device)
            return {"image": judging_seconds(fast, images, batch_size=batch, seconds=seconds / 3)}

        return _Part(f"forward passes of {model.name}", key, measure)

    def _degrading(self, images: ImageSet, spec: EvaluateSpec) -> _Part:
        name, protocol, settings = spec.degradation, spec.protocol, spec.settings
        levels = spread(tuple(range(spec.levels[0], spec.levels[-1] + 1)), LEVELS)
        key = self._key("degrading", None, images, spec.threads)
        key |= {"degradation": name, "levels": list(levels), "protocol": protocol, "settings": settings}
        conditions = Conditions(name, levels, spec.noise_seed, self.context.evaluation_batch, protocol, settings)

        def measure(seconds: float) -> dict[str, float]:
            return {"image": degrading_seconds(images, conditions, self.device, seconds=seconds / 3)}

        return _Part(f"degrading by {name}", key, measure)

    def _fitting(self, spec: FitSpec) -> _Part:
        images, _ = splits(spec.data, self.context.root(spec.data), "validation")
        entry, some = INFERENCE[spec.inference], images.at_most(FITTED)
        seen = [one.model_dump(mode="json") for one in spec.degradations]
        key = {**self._key("fit", None, images, spec.threads), "inference": spec.inference, "code": entry.code}
        key |= {"parameters": spec.parameters, "degradations": seen, "protocol": spec.protocol}
        at = At(some, None, spec.degradations, spec.data_seed, spec.protocol, self.device)

        def measure(seconds: float) -> dict[str, float]:
            assert entry.fits is not None
            entry.fits(replace(at, images=some.take(2)), **entry.checked(spec.parameters))  # the first call is slow
            began = time.perf_counter()
            entry.fits(at, **entry.checked(spec.parameters))
            return {"image": (time.perf_counter() - began) / len(some)}

        return _Part(f"fitting of {spec.inference}", key, measure)

    def _key(self, what: str, model: ModelConfig | None, images: ImageSet, threads: int) -> dict[str, Any]:
        """What every speed depends on."""
        found: dict[str, Any] = {"what": what, "machine": machine_name(self.device), "device": self.device.type}
        found |= {"torch": torch.__version__, "code": code_digest(), "threads": threads}
        found |= {"size": list(images.size), "classes": len(images.classes)}
        if model is not None:
            found["network"] = {**model.network.model_dump(mode="json"), "code": NETWORKS.code_of(model.name)}
        return found


def _network(model: ModelConfig, images: ImageSet) -> Any:
    with torch.random.fork_rng([]):
        return random_network(model.name, len(images.classes), 0, model.feature_layer, model.parameters)


def _stored(progress: Progress) -> float:
    """The seconds in which the state after an epoch is packed and written to a disk; the file is deleted."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as file:
        file.write(pack(progress))
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def _name(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _folder() -> Path:
    return cache_folder() / "speeds"


def _place(key: Mapping[str, Any]) -> Path:
    return _folder() / f"{_name(key)}.json"
