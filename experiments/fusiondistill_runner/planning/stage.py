"""A stage is a value: what to do, on what, with which inputs. Its digest names its directory.

The digest covers what can change the result (kind, recipe, inputs, seed, protocol, data, world size, threads, plugins,
format), not where or when it runs; so resuming, caching and sharing are one mechanism.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from fusiondistill.config import Dimension, Frozen, ModelConfig
from fusiondistill.loss import FOR_DIGEST
from fusiondistill.recipe import Recipe, Role, flat, with_keys
from fusiondistill_runner.planning.search_space import candidate_count

__all__ = [
    "FUSION_KEYS",
    "PLAIN",
    "CheckpointSpec",
    "DataSpec",
    "EvaluateSpec",
    "FuseSpec",
    "SearchSpec",
    "Spec",
    "Stage",
    "TrainSpec",
    "ancestors",
    "as_it_stands",
    "chosen_start",
    "priorities",
    "start_role",
    "trial_stage",
    "whole_recipe",
    "with_found",
]

FORMAT = 1
_NOT_DIGESTED = {"path", "shown"}
"""Fields that change no result: where a checkpoint lies, and which images are kept to look at."""


class DataSpec(Frozen):
    """Which images a stage sees."""

    name: str
    fingerprint: str
    train_images: int | None
    test_images: int | None
    held_out: float
    holdout_seed: int
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None


class TrainSpec(Frozen):
    """Train one network."""

    role: Role
    recipe: Recipe
    degradations: tuple[str, ...]
    data: DataSpec
    model: ModelConfig
    flip: bool | None
    protocol: str
    select: str
    data_seed: int
    world_size: int
    threads: int
    sync_batchnorm: bool = False

    @model_serializer(mode="wrap")
    def _content(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``sync_batchnorm`` while it is off: it came later, and stages from before keep their digests."""
        content: dict[str, Any] = standard(self)
        if not self.sync_batchnorm:
            content.pop("sync_batchnorm", None)
        return content


class FuseSpec(Frozen):
    """Average the experts and set BatchNorm's statistics; ``told``: recomputed on that degradation alone."""

    method: str
    recalibrate: str
    told: str | None
    images: int
    degradations: tuple[str, ...]
    data: DataSpec
    protocol: str
    data_seed: int
    threads: int


class SearchSpec(Frozen):
    """Search the distillation recipe."""

    train: TrainSpec
    trials: int
    searcher: str
    scheduler: str
    seeds: int
    space: dict[str, Dimension]


class EvaluateSpec(Frozen):
    """Count right answers of one method on some levels of one degradation of the test split.

    With ``corruption`` (the digest of its files) the images come from a published corruption set as they are: the
    degradation is ``c-<file>`` and the levels are its severities. A few images are kept at the levels ``shown``.
    """

    method: str
    degradation: str
    levels: tuple[int, ...]
    data: DataSpec
    protocol: str
    noise_seed: int
    precision: str
    threads: int
    corruption: str | None = None
    shown: tuple[int, ...] = ()


class CheckpointSpec(Frozen):
    """An existing checkpoint that stands for a stage. The path is where it lies, not what it is."""

    sha256: str
    model: ModelConfig
    data: DataSpec
    path: str


Spec = TrainSpec | FuseSpec | SearchSpec | EvaluateSpec | CheckpointSpec
KINDS = {TrainSpec: "train", FuseSpec: "fuse", SearchSpec: "search", EvaluateSpec: "evaluate", CheckpointSpec: "import"}


@dataclass(frozen=True, eq=False)
class Stage:
    """One unit of work with a stored result.

    Attributes:
        name: what a person calls it; opens the directory's name, is not part of the digest.
        seed: of the run that it belongs to.
        spec: what to do.
        inputs: role -> the stage whose result plays it.
        plugins: digests of the plugin files that are loaded.
    """

    name: str
    seed: int
    spec: Spec
    inputs: Mapping[str, Stage] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """train, fuse, search, evaluate or import."""
        return KINDS[type(self.spec)]

    @cached_property
    def digest(self) -> str:
        """sha256 over everything that can change the result."""
        content = {
            "format": FORMAT,
            "kind": self.kind,
            "spec": self.spec.model_dump(mode="json", exclude=_NOT_DIGESTED, context=FOR_DIGEST),
            "seed": self.seed,
            "inputs": {role: stage.digest for role, stage in self.inputs.items()},
            "plugins": self.plugins,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def directory(self) -> str:
        """Its directory within the store."""
        return f"{self.name}-{self.digest[:16]}"

    @property
    def work(self) -> float:
        """A rough size, in epochs of one degradation: for ordering and for estimating the time left."""
        spec = self.spec
        if isinstance(spec, TrainSpec):
            teachers = 0.3 if spec.recipe.loss.needs.teacher else 0.0
            return spec.recipe.epochs * max(1, len(spec.degradations)) * (1 + teachers)
        if isinstance(spec, SearchSpec):
            one = spec.train.recipe.epochs * len(spec.train.degradations) * 1.3
            return one * candidate_count(spec) * spec.seeds * (0.5 if spec.scheduler == "asha" else 1.0)
        if isinstance(spec, EvaluateSpec):
            return 0.06 * len(spec.levels) * (len(self.inputs) or 1)
        return 0.1


FUSION_KEYS = ("fusion.method", "fusion.recalibrate")
"""Dimensions of a search that are no keys of the recipe: they choose among fuse stages."""


PLAIN = "plain"
"""The role under which a search waits for the distillation with the recipe as it stands, where that is a trial, too."""


def start_role(method: str, recalibrate: str) -> str:
    """The role under which a search and its winner hold one way of fusing among their inputs."""
    return f"start-{method}-{recalibrate}"


def chosen_start(inputs: Mapping[str, Stage], values: Mapping[str, Any]) -> Stage:
    """The stage whose weights training starts from, of those that a search may choose between."""
    plain = inputs["start"]
    if not any(key in values for key in FUSION_KEYS):
        return plain
    assert isinstance(plain.spec, FuseSpec)
    method = values.get("fusion.method", plain.spec.method)
    return inputs[start_role(method, values.get("fusion.recalibrate", plain.spec.recalibrate))]


def with_found(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with a candidate's values laid over it, those that are keys of the recipe.

    Raises:
        pydantic.ValidationError: the values do not go together.
    """
    return with_keys(recipe, {key: value for key, value in values.items() if key not in FUSION_KEYS})


def whole_recipe(search: Stage) -> dict[str, Any]:
    """Every key that could be searched -> the value that the recipe (or the fusion) has without a search."""
    assert isinstance(search.spec, SearchSpec)
    values = flat(search.spec.train.recipe)
    start = search.inputs["start"].spec
    if isinstance(start, FuseSpec):
        values |= dict(zip(FUSION_KEYS, (start.method, start.recalibrate), strict=True))
    return values


def as_it_stands(search: Stage) -> dict[str, Any]:
    """The values of the dimensions without a search: the first candidate."""
    assert isinstance(search.spec, SearchSpec)
    whole = whole_recipe(search)
    return {name: whole[name] for name in search.spec.space}


def trial_stage(search: Stage, values: Mapping[str, Any], repeat: int = 0) -> Stage:
    """A search trial: the distillation stage itself with a candidate's values, a stage like any other.

    Where it is the very distillation that the search has as its input ``plain``, it is that stage.

    Args:
        search: the search stage.
        values: dimension -> value.
        repeat: 0 for the candidate itself; others differ in order, crops and noise.

    Raises:
        pydantic.ValidationError: the values do not go together.
    """
    assert isinstance(search.spec, SearchSpec)
    train = search.spec.train
    data_seed = train.data_seed
    if repeat:
        address = f"{data_seed}/repeat/{repeat}".encode()
        data_seed = int.from_bytes(hashlib.sha256(address).digest()[:4], "big")
    spec = train.model_copy(update={"recipe": with_found(train.recipe, values), "data_seed": data_seed})
    teachers = {role: stage for role, stage in search.inputs.items() if role.startswith("teacher-")}
    inputs = {"start": chosen_start(search.inputs, values), **teachers}
    trial, plain = Stage("trial", search.seed, spec, inputs, search.plugins), search.inputs.get(PLAIN)
    return plain if plain is not None and plain.digest == trial.digest else trial


def ancestors(stage: Stage) -> Iterator[Stage]:
    """The stages that a stage rests on, itself last; each once."""
    seen: set[str] = set()

    def walk(one: Stage) -> Iterator[Stage]:
        if one.digest not in seen:
            seen.add(one.digest)
            for needed in one.inputs.values():
                yield from walk(needed)
            yield one

    yield from walk(stage)


def priorities(stages: Sequence[Stage]) -> dict[str, float]:
    """Longest path first: a stage's work plus the longest work that waits for it, by digest.

    Args:
        stages: inputs before what uses them.
    """
    longest: dict[str, float] = {}
    for stage in reversed(stages):
        own = longest.setdefault(stage.digest, 0.0) + stage.work
        longest[stage.digest] = own
        for needed in stage.inputs.values():
            longest[needed.digest] = max(longest.get(needed.digest, 0.0), own)
    return longest
