"""From a config to a checked plan beside its store: all that is known before anything starts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from fusiondistill import config_file
from fusiondistill.config import Config, DataConfig, ModelConfig
from fusiondistill.data.errors import WrongValue
from fusiondistill.locations import absolute
from fusiondistill.methods import METHODS
from fusiondistill.plugins import read_plugins
from fusiondistill_runner.driving.alone import WITHOUT_ASHA, alone
from fusiondistill_runner.driving.data_summary import Summary, summary
from fusiondistill_runner.driving.network_facts import NetworkFacts, sized
from fusiondistill_runner.driving.recipe_notes import recipe_notes
from fusiondistill_runner.planning.plan import build, build_evaluation
from fusiondistill_runner.planning.rows import CORRUPTED, Plan, union
from fusiondistill_runner.planning.stage import Stage, ancestors
from fusiondistill_runner.storage.store import Store

Checkpoint = tuple[str, ModelConfig, Mapping[str, Any]]
"""Path, network and card of a checkpoint to evaluate."""
Models = Mapping[tuple[str, int], Checkpoint]
"""(row, seed) -> checkpoint."""

__all__ = ["Prepared", "look_for_data", "prepare", "prepare_evaluation", "prepare_points"]


@dataclass(frozen=True)
class Prepared:
    """A checked config with its plan, and what its store already holds."""

    config: Config
    plan: Plan
    """All stages; of a sweep those of all its points, each once."""
    points: tuple[Plan, ...]
    """The experiments: one for each point of a sweep, else the plan itself."""
    store: Store
    context: Any
    notes: tuple[str, ...] = ()
    """What the user should know about how the config was read."""
    data: tuple[Summary, ...] = ()
    """What the images of each data set are."""
    normalisations: Mapping[str, str] = field(default_factory=dict)
    """Experiment -> how its images are normalised, and how that was found."""
    stored: set[str] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[Stage]:
        """Stages that need work."""
        return [stage for stage in self.plan.stages if stage.digest not in self.stored]

    def looked_up(self) -> Prepared:
        """The same with a fresh look at what the store holds."""
        stored, damage = self.store.stored(self.plan.stages)
        return replace(self, stored=stored, damage=damage)

    def narrowed(self, stages: Sequence[Stage]) -> Prepared:
        """Only these stages and what they rest on; no rows."""
        kept = {needed.digest: needed for one in stages for needed in ancestors(one)}
        return replace(self, plan=replace(self.plan, stages=tuple(kept.values()), rows=()))


def prepare(name: str, overrides: Sequence[str] = (), store: str | None = None, *, local: bool = False) -> Prepared:
    """Read a config, find its data and plan it; starts nothing, and does not look into the store (``looked_up``).

    Args:
        local: for a run without Ray, which has one worker and no ASHA.

    Raises:
        ConfigError, DataError, CheckpointError, FileNotFoundError: the user's input is wrong.
    """
    read = config_file.load_points(name, overrides)
    try:
        return prepare_points(*read, store, local=local, own=config_file.own_recipes(name, overrides))
    except WrongValue as error:
        raise config_file.mistaken(name, overrides, error.location, str(error)) from error


def prepare_points(
    config: Config,
    points: tuple[Config, ...],
    store: str | None = None,
    *,
    local: bool = False,
    own: Mapping[str, str] | None = None,
) -> Prepared:
    """The same for configs that :func:`fusiondistill.config_file.parse_points` has read.

    Args:
        own: the recipes that methods name themselves; see :func:`fusiondistill.config_file.own_recipes`.
    """
    notes: tuple[str, ...] = ()
    if local:
        planned = points
        config, points = alone(config), tuple(alone(point) for point in planned)
        notes = (WITHOUT_ASHA,) if points != planned else ()
    outside = _Outside(config.plugins)
    shared: dict[str, Stage] = {}
    plans = tuple(outside.plan(outside.completed(point), shared) for point in points)
    whole = {"experiment": config.experiment, "sweep": config.sweep}
    prepared = outside.prepared(plans[0].config.model_copy(update=whole), plans, store, own)
    return replace(prepared, notes=(*notes, *prepared.notes))


def prepare_evaluation(
    checkpoints: Sequence[str], overrides: Sequence[str], store: str | None, *, data: str, local: bool = False
) -> Prepared:
    """Plan the evaluation of checkpoints on a data set; a row of its table each.

    Args:
        checkpoints: as ``load_checkpoint`` takes them. Its network is that of its card; without a card that of the
            overrides, or a CIFAR ResNet, whose tensors name it.
        overrides: as for a config, whose ``data``, ``evaluation`` and ``degradations`` count, and of files without a
            card ``model``.
        data: name of the data set.
        local: for a run without Ray.

    Raises:
        as :func:`prepare`.
    """
    name = f"evaluate-{data}" if re.fullmatch(r"\w+", data) else "evaluate"
    # Loads the plugins: a checkpoint's network may be one of theirs.
    whole = config_file.parse("experiment: x\n", source="evaluate", overrides=[f"data.name={data}", *overrides])
    networks = NetworkFacts()
    found = _Found(networks, whole.model if any(text.startswith("model.name=") for text in overrides) else None)
    for path in checkpoints:
        found.add(path)
    settings = hashlib.sha256(repr((sorted(checkpoints), sorted(overrides))).encode()).hexdigest()[:6]
    points: list[tuple[Config, Models]] = []
    for model, models in found.by_network.items():
        # Different networks are different tables.
        label = f"{name}-{settings}" + (f".{model.name}" if len(found.by_network) > 1 else "")
        given = [f"data.name={data}", *(text for text in overrides if not text.startswith("model."))]
        point = config_file.parse(f"experiment: {label}\n", source="evaluate", overrides=given)
        points.append((point.model_copy(update={"model": model}), models))
    config = points[0][0].model_copy(update={"experiment": name})
    if local:
        config = alone(config)
    outside = _Outside(config.plugins, networks)
    config = outside.completed(config)
    points = [(outside.completed(point), outside.with_facts(point, models)) for point, models in points]
    shared: dict[str, Stage] = {}
    plans = tuple(
        build_evaluation(point, *outside.of(point), models, shared=shared, **outside.facts(point))
        for point, models in points
    )
    return outside.prepared(config, plans, store)


class _Found:
    """Checkpoints to evaluate, by network: (row, seed) -> (path, network, card)."""

    def __init__(self, networks: NetworkFacts, named: ModelConfig | None = None) -> None:
        self.networks, self.named = networks, named
        """The network of files that do not say which one they belong to."""
        self.by_network: dict[ModelConfig, dict[tuple[str, int], Checkpoint]] = {}

    def add(self, path: str) -> None:
        """Look at a checkpoint.

        Raises:
            CheckpointError: it is missing, damaged, or does not say which network it belongs to.
        """
        from fusiondistill.checkpoints import CheckpointError, check_plugin
        from fusiondistill.foreign import unwrapped
        from fusiondistill.released import depth_of, renamed

        state, card = self.networks.read(path)
        if card:
            check_plugin(card, path)
            own = card.get("parameters") or {}
            model = ModelConfig(name=card["model"], feature_layer=card.get("feature_layer"), **own)
        elif self.named:
            model = self.named
        elif depth := depth_of(renamed(unwrapped(state))):
            model = ModelConfig(name=f"cifar_resnet{depth}")
        else:
            raise CheckpointError(
                f"{path} carries no card: it does not say which network it belongs to; name it, like --model resnet18, "
                "or take it into a run as base: {checkpoint: FILE}, whose config names the network"
            )
        models = self.by_network.setdefault(model, {})
        name, seed = _row(path)
        unique = next(n for n in (name, *(f"{name}-{i}" for i in range(2, 10_000))) if (n, seed) not in models)
        models[unique, seed] = (path, model, card)


_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}[a-z0-9_]")


def _row(path: str) -> tuple[str, int]:
    """Row and seed of a checkpoint: those of its stage, else the end of its path and 0.

    The row becomes a part of paths, and another program may have written the manifest: its name counts only if a stage
    could have it. The end of a path gets ``file-`` in front where it looks like a method's name.
    """
    from fusiondistill.checkpoints import CheckpointError, open_location, read_manifest

    filesystem, place = open_location(path)
    if not place.endswith((".safetensors", ".pt", ".pth")):
        manifest = read_manifest(filesystem, place.removesuffix("/manifest.json")) or {}
        stage, seed = str(manifest.get("name", "")), manifest.get("seed", 0)
        if type(seed) is not int or abs(seed) >= 2**63:
            raise CheckpointError(f"{path} has a manifest whose seed is none: {str(seed)[:80]}")
        if _NAME.fullmatch(stage):
            return stage, seed
    end = PurePosixPath(place.removesuffix("/manifest.json")).name
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", re.sub(r"\.(safetensors|pt|pth)$", "", end)).strip("-.") or "checkpoint"
    known = tuple(f"{each}-" for each, raw in METHODS.items() if raw.get("train_on") == "each")
    return (f"file-{name}" if name in METHODS or name.startswith(known) else name), 0


class _Data(NamedTuple):
    """What plans need to know of a data set."""

    fingerprint: str
    images: Mapping[str, Any]
    """Split -> its images; validation, where the set has such a split."""
    size: tuple[int, int]
    """Of the test images: (height, width) in pixels."""

    @property
    def train(self) -> Any:
        """The training images."""
        return self.images["train"]

    @property
    def test(self) -> Any:
        """The test images."""
        return self.images["test"]


class _Outside:
    """Reads what plans need to know about data sets, plugins and corruption sets; each of them once."""

    def __init__(self, plugins: Sequence[str], networks: NetworkFacts | None = None) -> None:
        self.plugins = read_plugins(plugins)
        self.data: dict[DataConfig, _Data] = {}
        self.corruptions: dict[tuple[str, _Data], dict[str, str]] = {}
        self.networks = networks or NetworkFacts()

    def completed(self, config: Config) -> Config:
        """The config with what its images and its weights say of what it leaves out."""
        data = self._data(config)
        return self.networks.completed(config, data.train, data.size)

    def of(self, config: Config) -> tuple[str, Any]:
        """Fingerprint of the data, and the levels of each degradation."""
        from fusiondistill.degradations import DEGRADATIONS

        return self._data(config).fingerprint, lambda name: DEGRADATIONS[name].levels

    def plan(self, config: Config, shared: dict[str, Stage]) -> Plan:
        """The plan of an experiment, with the normalisation of checkpoints that do not say theirs.

        Args:
            shared: digest -> stage, of all plans for a store.
        """
        facts = {"shared": shared, **self.facts(config)}
        plan = build(config, *self.of(config), **facts)
        if config.data.mean or config.data.std:
            return plan
        found = self.networks.normalisations.of_plan(plan, self._data(config).train)
        if found is None:
            return plan
        data = config.data.model_copy(update={"mean": found[0], "std": found[1]})
        return build(config.model_copy(update={"data": data}), *self.of(config), **facts)

    def with_facts(self, config: Config, models: Models) -> Models:
        """Checkpoints to evaluate; those without a card get their network's image size and their normalisation."""
        data, of_file, found = self._data(config), self.networks.normalisations.of_file, {}
        for row, (path, model, card) in models.items():
            if not card:
                model = sized(model, data.size)
                if not (config.data.mean or config.data.std):
                    card = dict(zip(("mean", "std"), of_file(path, model, data.train), strict=True))
            found[row] = (path, model, card)
        return found

    def _data(self, config: Config) -> _Data:
        from fusiondistill.data import load_images
        from fusiondistill.data.loading import locate
        from fusiondistill_runner.working.data import image_size

        given = config.data
        data = DataConfig(name=given.name, root=given.root, images=given.images, labels=given.labels, **given.loading)
        if data not in self.data:
            there = locate(data.name, data.place, **data.loading)
            splits = dict.fromkeys(("train", *there.splits, "test"))  # a missing one is told by its source
            images = {split: load_images(data.name, split, data.place, **data.loading) for split in splits}
            self.data[data] = _Data(there.whole, images, image_size(images["test"]))
        return self.data[data]

    def facts(self, config: Config) -> dict[str, Any]:
        """The rest of what :func:`planning.plan.build` takes."""
        data, folder, model = self._data(config), config.evaluation.corruptions, config.model
        found = self._corruptions(folder, data) if folder else {}
        parameters = self.networks.parameters(model, len(data.test.classes), data.size)
        self.networks.check_weights(model, list(data.train.classes))
        facts = {"test_images": len(data.test), "size": data.size, "weights": self.networks.weights(model)}
        facts["validation"] = "validation" in data.images
        return {**facts, "corruptions": found, "parameters": parameters}

    def _corruptions(self, folder: str, data: _Data) -> dict[str, str]:
        from fusiondistill.data.corruptions import check_corruptions, corruption_digest, corruption_names

        if (folder, data) not in self.corruptions:
            check_corruptions(folder, len(data.test.classes), data.size, data.test.labels)
            names = corruption_names(folder)
            self.corruptions[folder, data] = {f"{CORRUPTED}{n}": corruption_digest(folder, n) for n in names}
        return self.corruptions[folder, data]

    def prepared(
        self, config: Config, plans: tuple[Plan, ...], store: str | None, recipes: Mapping[str, str] | None = None
    ) -> Prepared:
        """The plans with their store and the context of their stages; what the images are like is looked at here.

        Args:
            recipes: method -> the recipe that it names itself.
        """
        from fusiondistill_runner.driving.data_facts import DataFacts
        from fusiondistill_runner.working.context import Context

        place = Store(store or f"runs/{config.experiment}")
        roots = tuple((found.fingerprint, _absolute(one.place)) for one, found in self.data.items() if one.place)
        sets = tuple((d, absolute(folder)) for (folder, _), found in self.corruptions.items() for d in found.values())
        context = Context(absolute(place.location), roots, sets, config.evaluation.batch_size, self.plugins)
        facts, notes, about = DataFacts(self.networks.read), list[str](self.networks.notes), list[Summary]()
        origins = dict[str, str]()
        for plan in plans:
            data = self._data(plan.config)
            notes += recipe_notes(plan, len(data.test.classes), data.size, recipes or {})
            notes += [*self.networks.of(plan), *facts.of(plan, data.images)]
            about.append(summary(plan.config.data, data.images))
            origins[plan.config.experiment] = self.networks.origin(plan, data.train)
        said, looks = tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(about))
        return Prepared(config, union(config, plans), plans, place, context, said, looks, origins)


def _absolute(place: str | tuple[str, ...]) -> str | tuple[str, ...]:
    return absolute(place) if isinstance(place, str) else tuple(map(absolute, place))


def look_for_data(points: Sequence[Config]) -> tuple[str, ...]:
    """Find the files of the data sets that lie at a root, and read their class names; decodes and fetches nothing.

    Returns:
        what users should know of the files, a sentence each.

    Raises:
        DataError: files are missing, or what is meant cannot be told.
    """
    from fusiondistill.sources import SOURCES

    notes: list[str] = []
    for data in dict.fromkeys(one.data for one in points):
        source = SOURCES[data.name]
        if not source.needs_root or source.plugin:
            continue  # fetched by name, or read by a plugin, which may take long
        from fusiondistill.data.loading import locate  # and torch, only where it is needed

        there = locate(data.name, data.place, **data.loading)
        for split in dict.fromkeys(("train", *there.own_splits, *(("test",) if data.test is None else ()))):
            source.function(there.files, split, **there.parameters)
        notes += there.notes
    return tuple(dict.fromkeys(notes))
