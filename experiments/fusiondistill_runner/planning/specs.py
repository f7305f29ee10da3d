"""What a stage does, as values: one class for each kind, with what it costs and which code it uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from fusiondistill.config import Dimension, ModelConfig
from fusiondistill.data.arrangement import Arranged
from fusiondistill.degradation_config import DegradationConfig
from fusiondistill.loss import FOR_DIGEST
from fusiondistill.protocols import PROTOCOLS
from fusiondistill.recipe import Augmentation, Frozen, Recipe
from fusiondistill.registry import Entry
from fusiondistill_runner.planning.search_space import candidate_count

__all__ = [
    "JUDGING",
    "CheckpointSpec",
    "DataSpec",
    "EvaluateSpec",
    "FitSpec",
    "MergeSpec",
    "PackSpec",
    "PretrainedSpec",
    "SearchSpec",
    "Spec",
    "TrainSpec",
    "ValidateSpec",
]


_LATER = {
    "coupled_draws": False, "resized_crop": None, "class_weights": "none", "sampling": "uniform", "ema": 0.0,
    "swa": 0.0, "pull": 0.0, "mixup": 0.0, "batchnorm": "together",
    "optimizer.nesterov": False, "schedule.by": "epoch", "schedule.warmup": 0.0,
}  # fmt: skip
"""Keys of a recipe that came after results were stored, with the values under which all is as before."""


_LATER_OF_TRAINING: dict[str, Any] = {"taught_by": "degradation", "together": [], "span": None}
"""The same for fields of a training's spec."""


def _as_before(train: dict[str, Any]) -> None:
    """Take out of a dumped training what changes nothing: stages from before the key was there are the same stages."""
    for key, before in _LATER_OF_TRAINING.items():
        if train[key] == before:
            del train[key]
    recipe = train["recipe"]
    unused = ["resized_crop_ratio"] if recipe["resized_crop"] is None else ["crop_padding"]
    for key in unused:
        del recipe[key]
    recipe["channels_last"] = False  # a matter of the machine, like the device; once it was digested
    for dotted, default in _LATER.items():
        *section, key = dotted.split(".")
        place = recipe[section[0]] if section else recipe
        if place[key] == default:
            del place[key]


class DataSpec(Arranged):
    """Which images a stage sees; the source's parameters stand beside the rest."""

    later = Arranged.later | {"validation_split"}

    name: str
    fingerprint: str
    train_images: int | None
    test_images: int | None
    held_out: float
    holdout_seed: int
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    validation_split: bool = False
    """Whether epochs and weights are picked on the set's own validation split."""

    def entry(self) -> Entry | None:
        """The data source."""
        from fusiondistill.sources import SOURCES

        return SOURCES[self.name]

    def limit(self, split: str) -> int | None:
        """How many images of a split are used; None: all."""
        return {"train": self.train_images, "test": self.test_images}.get(split)


class _Spec(Frozen):
    """What all specs have, besides ``data``, the images that the stage sees."""

    kind: ClassVar[str]
    version: ClassVar[int]
    """Raised whenever stages of this kind would give another result than before with the same entries."""
    left_out: ClassVar[frozenset[str]] = frozenset()
    """Fields that change no result."""
    split: ClassVar[str] = "train"
    """The split that the stage takes its images from."""

    def digested(self) -> dict[str, Any]:
        """The fields that can change the result, JSON-able."""
        return self.model_dump(mode="json", exclude=set(self.left_out))

    def entries(self) -> Iterator[tuple[str, str]]:
        """(registry, name) of every entry whose code can change the result."""
        return iter(())

    def work(self, inputs: int) -> float:
        """A rough size, in epochs of one degradation: for ordering and for estimating the time left."""
        return 0.1

    @property
    def workers(self) -> int:
        """How many data-parallel workers it takes."""
        return 1

    @property
    def candidates(self) -> int:
        """How many trials of a search may run side by side."""
        return 1

    @property
    def training(self) -> TrainSpec | None:
        """The training that the stage does, or that it searches; None: it trains nothing."""
        return None

    @property
    def trainings(self) -> int:
        """How many times the stage does its training at most."""
        return 1

    @property
    def part(self) -> float:
        """The part of its trainings' epochs that the stage is expected to do."""
        return 1.0

    @property
    def network(self) -> ModelConfig | None:
        """The network that the stage makes; None: that of its inputs."""
        return getattr(self.training or self, "model", None)


class TrainSpec(_Spec):
    """Train one network."""

    kind: ClassVar[str] = "train"
    version: ClassVar[int] = 1

    recipe: Recipe
    degradations: tuple[DegradationConfig, ...]
    data: DataSpec
    model: ModelConfig
    flip: bool | None
    protocol: str
    select: str
    data_seed: int
    world_size: int
    threads: int
    sync_batchnorm: bool = False
    taught_by: str = "degradation"
    """Which teachers teach an image: see :class:`fusiondistill.methods.Teachers`."""
    together: tuple[str, ...] = ()
    """The ids of the teachers that teach each image together, where these are several."""
    span: tuple[int, int] | None = None
    """The first epoch of the recipe, from 0, and the one after the last that it does; None: all."""

    @property
    def epochs(self) -> int:
        """How many epochs it does."""
        return self.last - (self.span[0] if self.span else 0)

    @property
    def last(self) -> int:
        """The number of the last epoch that it does, from 1."""
        return self.span[1] if self.span else self.recipe.epochs

    @property
    def teachers(self) -> int:
        """How many teachers see each image."""
        return max(1, len(self.together)) if self.recipe.loss.needs.teacher else 0

    def digested(self) -> dict[str, Any]:
        """The fields that can change the result.

        Of the loss these are the terms that are computed, of the ways to score epochs the unusual ones.
        """
        content = self.model_dump(mode="json", context=FOR_DIGEST)
        if self.recipe.cutout is not None:
            del content["recipe"]["largest_cutout"]
        _as_before(content)
        protocol = PROTOCOLS[self.protocol]
        if protocol.score_batch and self.select != "last":
            content["scored"] = [protocol.score_batch, protocol.redrawn]
        if self.recipe.batchnorm == "apart" and self.select != "last":
            content["normalised"] = "apart"
        return content

    def entries(self) -> Iterator[tuple[str, str]]:
        """Loss terms, network, degradations and data source."""
        yield from (("losses", name) for name in self.recipe.loss.weighted)
        yield from (("degradations", one.name) for one in self.degradations)
        yield from (("networks", self.model.name), ("sources", self.data.name))

    def work(self, inputs: int) -> float:
        """Epochs times degradations; teachers cost a third."""
        return self.epochs * max(1, len(self.degradations)) * (1 + 0.3 * self.teachers)

    @property
    def workers(self) -> int:
        """Its world size."""
        return self.world_size

    @property
    def training(self) -> TrainSpec:
        """Itself."""
        return self


class MergeSpec(_Spec):
    """Merge networks and set BatchNorm's statistics; ``told``: recomputed on the degradation of that id alone."""

    kind: ClassVar[str] = "fuse"
    version: ClassVar[int] = 1

    merge: str
    parameters: dict[str, Any]
    recalibrate: str
    told: str | None
    images: int
    degradations: tuple[DegradationConfig, ...]
    data: DataSpec
    protocol: str
    data_seed: int
    threads: int
    augmentation: Augmentation | None = None
    """That of the merged networks' training; None where it is not known."""

    def digested(self) -> dict[str, Any]:
        """The fields that can change the result: images are augmented where statistics are recomputed on them."""
        fields = super().digested()
        if self.augmentation is None or self.recalibrate != "mixed":
            del fields["augmentation"]
        return fields

    def entries(self) -> Iterator[tuple[str, str]]:
        """Merging method, degradations and data source."""
        yield ("merging", self.merge)
        yield from (("degradations", one.name) for one in self.degradations)
        yield ("sources", self.data.name)


class FitSpec(_Spec):
    """Fit the part of a way of inference, on training images; it depends on no network.

    ``model`` is that of the first row that uses it: forecasts go by it.
    """

    kind: ClassVar[str] = "fit"
    version: ClassVar[int] = 1
    left_out: ClassVar[frozenset[str]] = frozenset({"model"})

    inference: str
    parameters: dict[str, Any]
    degradations: tuple[DegradationConfig, ...]
    data: DataSpec
    protocol: str
    data_seed: int
    threads: int
    model: ModelConfig

    def entries(self) -> Iterator[tuple[str, str]]:
        """Way of inference, degradations and data source."""
        yield ("inference", self.inference)
        yield from (("degradations", one.name) for one in self.degradations)
        yield ("sources", self.data.name)

    def work(self, inputs: int) -> float:
        """About that of a short training."""
        return 0.5 * (1 + len(self.degradations))


class PackSpec(_Spec):
    """Put networks, and the part that was fitted for how they answer, into one file."""

    kind: ClassVar[str] = "pack"
    version: ClassVar[int] = 1

    inference: str
    parameters: dict[str, Any]
    data: DataSpec
    threads: int

    def entries(self) -> Iterator[tuple[str, str]]:
        """Way of inference and data source."""
        yield from (("inference", self.inference), ("sources", self.data.name))

    @property
    def transductive(self) -> bool:
        """Whether an image's answer depends on the images beside it."""
        from fusiondistill.inference import INFERENCE

        return INFERENCE[self.inference].transductive


class SearchSpec(_Spec):
    """Search a method's recipe and start."""

    kind: ClassVar[str] = "search"
    version: ClassVar[int] = 1

    train: TrainSpec
    trials: int
    searcher: str
    scheduler: str
    seeds: int
    space: dict[str, Dimension]

    def digested(self) -> dict[str, Any]:
        """The training as it stands, and the space."""
        content = super().digested()
        _as_before(content["train"])
        return content

    def entries(self) -> Iterator[tuple[str, str]]:
        """Those of the training; also the loss terms that the space can turn on, and the merges that it offers."""
        yield from self.train.entries()
        yield from (("losses", key.split(".")[1]) for key in self.space if key.startswith("loss."))
        merges = self.space.get("start.merge", Dimension(grid=("",)))
        yield from (("merging", str(name)) for name in merges.choice or merges.grid or () if name)

    def work(self, inputs: int) -> float:
        """Of all its trainings."""
        several = max(1, self.train.teachers)  # a search may turn on a term that needs them
        one = self.train.epochs * max(1, len(self.train.degradations)) * (1 + 0.3 * several)
        return one * self.candidates * self.seeds * self.part

    @property
    def candidates(self) -> int:
        """At most so many trials."""
        return candidate_count(self)

    @property
    def data(self) -> DataSpec:
        """The images of the training."""
        return self.train.data

    @property
    def training(self) -> TrainSpec:
        """The searched training."""
        return self.train

    @property
    def trainings(self) -> int:
        """One for each candidate and repeat."""
        return self.candidates * self.seeds

    @property
    def part(self) -> float:
        """ASHA stops about half of the epochs."""
        return 0.5 if self.scheduler == "asha" else 1.0


class EvaluateSpec(_Spec):
    """Count right answers of one network, or of several that answer together, on some levels of one degradation.

    With ``corruption`` (the digest of its files) the images come from a published corruption set as they are: the
    degradation is ``c-<file>`` and the levels are its severities. A few images are kept at the levels ``shown``. The
    degradation is named by its entry: under which id a table shows it changes no count.
    """

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 1
    left_out: ClassVar[frozenset[str]] = frozenset({"shown"})
    split: ClassVar[str] = "test"

    inference: str | None
    parameters: dict[str, Any] = Field(default_factory=dict)
    degradation: str
    settings: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the degradation, where it has any."""
    levels: tuple[int, ...]
    data: DataSpec
    protocol: str
    noise_seed: int
    precision: str
    threads: int
    corruption: str | None = None
    shown: tuple[int, ...] = ()

    def digested(self) -> dict[str, Any]:
        """Without settings where there are none."""
        content = super().digested()
        return content if self.settings else {key: value for key, value in content.items() if key != "settings"}

    def entries(self) -> Iterator[tuple[str, str]]:
        """Way of inference, degradation and data source."""
        if self.inference:
            yield ("inference", self.inference)
        if self.corruption is None:
            yield ("degradations", self.degradation)
        yield ("sources", self.data.name)

    def work(self, inputs: int) -> float:
        """By levels and networks."""
        return 0.06 * len(self.levels) * (inputs or 1)


class ValidateSpec(_Spec):
    """Count right answers of one network on the validation split, clean and at random levels of each degradation.

    All networks of a table see the same pixels, on which no training of the run took a step. The best single network is
    the one with the most right answers.
    """

    kind: ClassVar[str] = "validate"
    version: ClassVar[int] = 1

    degradations: tuple[DegradationConfig, ...]
    draws: int
    """Levels at which each image is seen, of each degradation."""
    data: DataSpec
    protocol: str
    threads: int

    def entries(self) -> Iterator[tuple[str, str]]:
        """Degradations and data source."""
        yield from (("degradations", one.name) for one in self.degradations)
        yield ("sources", self.data.name)

    def work(self, inputs: int) -> float:
        """By passes over the images, which are a tenth of the training images unless a config says otherwise."""
        return 0.06 * (1 + self.draws * len(self.degradations)) * (self.data.held_out or 0.1)


JUDGING = frozenset({EvaluateSpec.kind, ValidateSpec.kind})
"""Kinds of stages that judge a stored network: short, and many."""


class _FileSpec(_Spec):
    """Weights of a file; their digest says which, wherever they lie."""

    kind: ClassVar[str] = "import"
    version: ClassVar[int] = 1
    left_out: ClassVar[frozenset[str]] = frozenset({"path"})

    sha256: str
    model: ModelConfig
    data: DataSpec
    path: str

    def entries(self) -> Iterator[tuple[str, str]]:
        """Network and data source."""
        yield from (("networks", self.model.name), ("sources", self.data.name))


class CheckpointSpec(_FileSpec):
    """An existing checkpoint that stands for a stage."""


class PretrainedSpec(_FileSpec):
    """Weights that trainings start from, with a head for the classes."""

    new_head: bool
    """Whether the head is made anew even where it has as many outputs."""


Spec = (
    TrainSpec
    | MergeSpec
    | SearchSpec
    | FitSpec
    | PackSpec
    | EvaluateSpec
    | ValidateSpec
    | CheckpointSpec
    | PretrainedSpec
)
