"""An experiment as frozen values: the keys of its YAML file, their meaning and their defaults.

Nothing here imports torch, so that mistakes in a file are reported at once. :mod:`fusiondistill.config_file` reads the
YAML and the overrides, and finds line numbers.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, field_validator, model_validator

from fusiondistill.data.arrangement import Arranged
from fusiondistill.degradation_config import DegradationConfig
from fusiondistill.degradations import PAPER_DEGRADATIONS
from fusiondistill.methods import METHODS, SEARCHED, Method, needed_methods
from fusiondistill.parametrised import Parametrised
from fusiondistill.protocols import PROTOCOLS, Protocol, ProtocolName
from fusiondistill.recipe import Count, Fraction, Frozen, Positive, Precision, Weight
from fusiondistill.recipes import RecipeName
from fusiondistill.registry import Entry
from fusiondistill.resolution import default_methods, resolve

__all__ = [
    "PAPER_DEGRADATIONS",
    "SECTIONS",
    "Config",
    "DataConfig",
    "Dimension",
    "EvaluationConfig",
    "ModelConfig",
    "Resources",
    "SearchConfig",
    "TrackingConfig",
    "chosen_by",
    "held_out_of",
]


def chosen_by(select: str | None, protocol: str) -> str:
    """How epochs are chosen: ``select``, or the protocol's default where that is None."""
    return select or PROTOCOLS[protocol].select


def held_out_of(validation: float | None, protocol: str) -> float:
    """The part of the training images that is held out: ``data.validation``, or the protocol's default."""
    return PROTOCOLS[protocol].held_out if validation is None else validation


class DataConfig(Arranged):
    """Which images; the source's own parameters stand beside these keys."""

    name: str = Field("digits", description="digits, cifar10, cifar100, tiny_imagenet, parquet, folder, table")
    root: str | None = Field(None, description="where the files are; default: the cache folder")
    images: str | None = Field(None, description="for the source table: the folder of the images; default: root")
    labels: str | None = Field(
        None, description="for the source table: the .csv or .tsv file of the labels; default: the one in root"
    )
    train_images: Count | None = Field(None, description="use only so many training images, balanced over classes")
    test_images: Count | None = Field(None, description="use only so many test images, balanced over classes")
    validation: Fraction | None = Field(
        None,
        description="part of the training images held out to pick epochs and weights; default: the set's own "
        "validation split, else 0.1; paper 0",
    )
    mean: tuple[float, float, float] | None = Field(
        None,
        description="mean of each channel, 0..255 scale; default: the published one, or computed on the training split",
    )
    std: tuple[Positive, Positive, Positive] | None = Field(
        None, description="standard deviation of each channel, as mean"
    )
    flip: bool | None = Field(None, description="random horizontal flips; default: what the data set allows")

    later = Arranged.later | {"images", "labels"}

    def entry(self) -> Entry | None:
        """The data source; None for an unknown one, which the rules report."""
        from fusiondistill.sources import SOURCES

        return SOURCES.get(self.name)

    @property
    def place(self) -> str | tuple[str, ...] | None:
        """Where the files are, as :func:`fusiondistill.load_images` takes it."""
        if self.labels is None:
            return self.images or self.root
        return (self.images or self.root or str(PurePath(self.labels).parent), self.labels)


class ModelConfig(Parametrised):
    """Which network; its own parameters stand beside these keys."""

    name: str = Field(
        "cifar_resnet56", description="cifar_resnet<6n+2>, a torchvision classifier by its name, or timm/<name>"
    )
    feature_layer: str | None = Field(
        None, description="dotted name of the layer whose output is the feature; default by model"
    )
    weights: str | None = Field(
        None,
        description="the base's initial weights: pretrained (those of torchvision or timm), or the file of "
        "a checkpoint, whose head is kept where it has as many outputs",
    )

    later = frozenset({"weights"})

    @property
    def network(self) -> ModelConfig:
        """The network without the weights that it starts from."""
        return self.model_copy(update={"weights": None})

    def entry(self) -> Entry | None:
        """The entry that builds the network; None for an unknown name, which the rules report."""
        from fusiondistill.networks import NETWORKS

        return None if NETWORKS.check_name(self.name) else NETWORKS.provider(self.name)


class Dimension(Frozen):
    """One dimension of a search: exactly one of its forms."""

    choice: tuple[Any, ...] | None = Field(None, description="one of these, drawn at random")
    uniform: tuple[FiniteFloat, FiniteFloat] | None = Field(None, description="[low, high]")
    loguniform: tuple[Positive, Positive] | None = Field(None, description="[low, high], even in the logarithm")
    integers: tuple[int, int] | None = Field(None, description="[low, high], both ends included")
    grid: tuple[Any, ...] | None = Field(None, description="every one of these, crossed with the other grids")

    @model_validator(mode="after")
    def _one_form(self) -> Dimension:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError("needs exactly one of choice, uniform, loguniform, integers, grid")
        form, values = next(iter(given.items()))
        if not values:
            raise ValueError(f"an empty {form}")
        if form not in ("choice", "grid") and values[0] >= values[1]:
            raise ValueError(f"{form}: low must be less than high")
        return self


class SearchConfig(Frozen):
    """The search over a method's recipe and start, judged on the validation split."""

    of: str = Field(SEARCHED, description="the method that is searched: one that is trained")
    trials: Count = Field(
        10,
        description="how many candidates, the first is the recipe as it stands; with grids: how many draws of the "
        "other dimensions at each point of the grid, beside the recipe as it stands",
    )
    epochs: Count | None = Field(None, description="epochs of a trial; default: the recipe's")
    searcher: Literal["random", "optuna"] = Field(
        "random",
        description="random draws and grids; or optuna: Bayesian (TPE), no grids, needs the extra of that name",
    )
    scheduler: Literal["asha", "none"] = Field("asha", description="asha stops weak trials early")
    seeds: Count = Field(
        1, description="how often each candidate is trained, each time with other shuffles and noise; its mean counts"
    )
    space: dict[str, Dimension] = Field(
        description="dimensions by recipe key, like loss.kd or optimizer.lr; of a merged start also start.merge, "
        "start.recalibrate and the merging method's parameters"
    )

    @field_validator("space")
    @classmethod
    def _not_empty(cls, value: dict[str, Dimension]) -> dict[str, Dimension]:
        if not value:
            raise ValueError(
                "an empty search space: name at least one dimension, like loss.kd: {loguniform: [0.1, 10]}"
            )
        return value


class EvaluationConfig(Frozen):
    """What is measured on the test split."""

    every: Count = Field(1, description="evaluate every k-th level and the last; the rest is interpolated")
    batch_size: Annotated[int, Field(ge=2)] = Field(
        500, description="images of a forward pass; on a CPU it changes no count"
    )
    seed: int = Field(123, description="seed of the degradations' noise")
    expert_matrix: bool = Field(True, description="evaluate every expert on every degradation, not on its own only")
    precision: Precision = Field(
        "fp32", description="of the forward pass; the reduced ones change a few counts, for every row alike"
    )
    unseen: tuple[DegradationConfig, ...] = Field(
        (),
        description="degradations (or levels) to evaluate that no network was trained on, as their own columns; "
        "true: every shipped one that is not among degradations",
    )
    corruptions: str | None = Field(
        None, description="a folder like CIFAR-10-C's: <corruption>.npy, five severities in order, and labels.npy"
    )
    piece: Count = Field(
        200_000, description="images (times levels) that one worker evaluates at a time: what a lost worker loses"
    )


class Resources(Frozen):
    """The resources of a worker, and how many workers there are.

    They change where stages run, not their results (except ``threads``, ``workers_per_run`` and ``sync_batchnorm``).
    """

    cpus_per_worker: Positive = Field(1, description="CPUs that Ray reserves for a worker")
    gpus_per_worker: Weight | None = Field(
        None, description="GPUs, may be a fraction; default: 1 if the cluster has any, else 0"
    )
    workers: Count | None = Field(None, description="at most so many workers at once; default: what fits")
    workers_per_run: Count = Field(
        1, description="data-parallel workers of one training run; each normalises its own part of a batch"
    )
    sync_batchnorm: bool = Field(
        False, description="BatchNorm over the whole batch of a run's data-parallel workers; needs GPUs"
    )
    capture: bool = Field(
        True, description="on CUDA: training steps as graphs, one launch each; false: operation by operation"
    )
    threads: Count | None = Field(None, description="torch threads of a worker; default: cpus_per_worker, rounded down")
    group_size: Count = Field(8, description="workers of one Ray Train group, which fail and restart together")


class TrackingConfig(Frozen):
    """Trackers that also get a run's metrics; changes no result. Keys and passwords come from the environment."""

    mlflow: str | None = Field(
        None, description="URI of an MLflow server, or sqlite:///FILE; needs the extra of that name"
    )
    wandb: str | None = Field(
        None, description="project at Weights & Biases (WANDB_MODE=offline: on disk); needs the extra of that name"
    )


class Config(Frozen):
    """One experiment."""

    experiment: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = Field(
        description="its name: letters, digits, '_', '-', '.'"
    )
    protocol: ProtocolName = Field(
        "standard", description="standard; or paper: as the released code does it, with its leaks"
    )
    recipe: RecipeName | None = Field(
        None,
        description="defaults of the methods' recipes: paper, paper-cifar100, or fast, with a quarter of the epochs; "
        "default paper, of CIFAR-100 and Tiny ImageNet paper-cifar100",
    )
    precision: Precision | None = Field(
        None,
        description="precision of every training whose method does not set it: fp32, bf16 or fp16; under protocol "
        "paper trainings stay fp32",
    )
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = Field(
        (0,), description="one complete run per seed: [0, 1, 2], or 0..2"
    )
    data: DataConfig = Field(DataConfig(), description="the images; a name alone stands for {name: ...}")
    model: ModelConfig = Field(ModelConfig(), description="the network; a name alone stands for {name: ...}")
    degradations: Annotated[tuple[DegradationConfig, ...], Field(min_length=1)] = Field(
        tuple(DegradationConfig(name=name) for name in PAPER_DEGRADATIONS),
        description="the degradations that experts are trained for: names, or {name: blur, as: light, levels: 0..10}",
    )
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="rows of the table; default: the base, the paper's seven, and all that are defined"
    )
    select: Literal["validation", "last", "test"] | None = Field(
        None, description="which epoch is kept: best on validation (default), last, or test (paper only, a leak)"
    )
    table: dict[str, Method] = Field(description="all methods by name: sections laid over built-ins, and ``define``")
    search: tuple[SearchConfig, ...] = Field((), description="one search or a list; leave it out, or null, for none")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="the measurements on the test split")
    resources: Resources = Field(Resources(), description="the resources of a worker, and the number of workers")
    tracking: TrackingConfig | None = Field(None, description="leave it out for none; event files are always written")
    plugins: tuple[str, ...] = Field(
        (), description="Python files that register your own entries: degradations, loss terms, networks, ..."
    )

    @model_validator(mode="before")
    @classmethod
    def _tabled(cls, given: Any) -> Any:
        """Turn sections and ``define`` into the table of methods; the rules report what cannot be resolved."""
        if not isinstance(given, dict) or "table" in given:
            return given
        rest = {key: value for key, value in given.items() if key not in METHODS and key != "define"}
        if rest.get("methods") is None:
            rest["methods"] = default_methods(given)
        search = rest.get("search")
        rest["search"] = [search] if isinstance(search, dict) else search or ()
        return {**rest, "table": resolve(given).settings}

    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] | None = Field(
        None, description="key -> list of values, all crossed: `fusiondistill sweep` runs an experiment for each point"
    )

    @field_validator("seeds", "methods")
    @classmethod
    def _no_repeats(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        repeated = sorted({str(v) for v in value if value.count(v) > 1})
        if repeated:
            raise ValueError(f"given twice: {', '.join(repeated)}")
        return value

    @property
    def assumed(self) -> Protocol:
        """The protocol's defaults."""
        return PROTOCOLS[self.protocol]

    @property
    def epoch_choice(self) -> str:
        """The resolved ``select``."""
        return chosen_by(self.select, self.protocol)

    @property
    def held_out(self) -> float:
        """The resolved fraction of the validation split."""
        return held_out_of(self.data.validation, self.protocol)

    def content(self) -> dict[str, Any]:
        """The content of a config file for it, JSON-able: the methods that rows need are sections, or in ``define``."""
        whole = self.model_dump(mode="json", exclude={"table", "search"})
        needed = needed_methods(self.table, [*self.methods, *(search.of for search in self.search)])
        rows = {name: self.table[name].model_dump(mode="json", exclude={"form"}) for name in needed}
        defined = {name: row for name, row in rows.items() if name not in METHODS}
        searches = [search.model_dump(mode="json", exclude_none=True) for search in self.search]
        return {
            **whole,
            **{name: row for name, row in rows.items() if name in METHODS},
            **({"define": defined} if defined else {}),
            "search": searches[0] if len(searches) == 1 else searches or None,
        }

    def search_of(self, method: str) -> SearchConfig | None:
        """The search of a method, if it has one."""
        return next((search for search in self.search if search.of == method), None)

    @property
    def threads(self) -> int:
        """The resolved torch threads of a worker."""
        return self.resources.threads or max(1, int(self.resources.cpus_per_worker))


SECTIONS = frozenset({*Config.model_fields, "define", "fusion"} - {"table"})
"""Keys of a config that are not methods; ``fusion`` is an old spelling."""
