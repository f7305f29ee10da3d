"""From a config to a checked plan beside its store: all that is known before anything starts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusiondistill import config_file
from fusiondistill.config import Config
from fusiondistill.data.errors import DataError, MixedSizes, WrongValue
from fusiondistill.locations import absolute
from fusiondistill_runner.driving.alone import WITHOUT_ASHA, alone
from fusiondistill_runner.driving.data_summary import Summary, summary
from fusiondistill_runner.driving.found import Found, Models
from fusiondistill_runner.driving.network_facts import NetworkFacts
from fusiondistill_runner.driving.outside import Outside
from fusiondistill_runner.driving.recipe_notes import recipe_notes
from fusiondistill_runner.planning.plan import build_evaluation
from fusiondistill_runner.planning.rows import Plan, union
from fusiondistill_runner.planning.stage import Stage, ancestors
from fusiondistill_runner.storage.store import Store

__all__ = ["Prepared", "look_for_data", "prepare", "prepare_evaluation", "prepare_points", "told_with_line"]


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
    with told_with_line(name, overrides, read[1]):
        return prepare_points(*read, store, local=local, own=config_file.own_recipes(name, overrides))


@contextmanager
def told_with_line(name: str, overrides: Sequence[str], points: Sequence[Config]) -> Iterator[None]:
    """Let an error about a value of a config, or about images that are not where it says, name the key and its line.

    Raises:
        ConfigError: in the place of such an error.
    """
    try:
        yield
    except WrongValue as error:
        raise config_file.mistaken(name, overrides, error.location, str(error)) from error
    except DataError as error:
        if (key := _leads_nowhere(points)) is None:
            raise
        hint = f" Another place: --set data.{key}=PATH." if len(points) == 1 else ""
        raise config_file.mistaken(name, overrides, ("data", key), f"{error}{hint}") from error


def _leads_nowhere(points: Sequence[Config]) -> str | None:
    """The key of ``data`` that names a place where nothing is."""
    for data in dict.fromkeys(one.data for one in points):
        for key in ("root", "images", "labels"):
            place = getattr(data, key)
            if place is not None and not Path(place).expanduser().exists():
                return key
    return None


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
    outside = Outside(config.plugins)
    shared: dict[str, Stage] = {}
    plans = tuple(outside.plan(outside.completed(point), shared) for point in points)
    whole = {"experiment": config.experiment, "sweep": config.sweep}
    prepared = _prepared(outside, plans[0].config.model_copy(update=whole), plans, store, own)
    return replace(prepared, notes=(*notes, *prepared.notes))


def prepare_evaluation(
    checkpoints: Sequence[str], overrides: Sequence[str], store: str | None, *, data: str, local: bool = False
) -> Prepared:
    """Plan the evaluation of checkpoints on a data set; a row of its table each.

    Args:
        checkpoints: as ``load_checkpoint`` takes them. Its network is that of its card; without a card that of the
            overrides, or a CIFAR ResNet, whose tensors name it. Images of several sizes are resized as the cards say.
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
    found = Found(networks, whole.model if any(text.startswith("model.name=") for text in overrides) else None)
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
    outside = Outside(config.plugins, networks)
    try:
        config = outside.completed(config)
    except MixedSizes:
        if (sized := found.resizing()) is None:
            raise
        return prepare_evaluation(checkpoints, [*overrides, *sized], store, data=data, local=local)
    points = [(outside.completed(point), outside.with_facts(point, models)) for point, models in points]
    shared: dict[str, Stage] = {}
    plans = tuple(
        build_evaluation(point, *outside.of(point), models, shared=shared, **outside.facts(point))
        for point, models in points
    )
    return _prepared(outside, config, plans, store)


def _prepared(
    outside: Outside,
    config: Config,
    plans: tuple[Plan, ...],
    store: str | None,
    recipes: Mapping[str, str] | None = None,
) -> Prepared:
    """The plans with their store and the context of their stages; what the images are like is looked at here.

    Args:
        recipes: method -> the recipe that it names itoutside.
    """
    from fusiondistill_runner.driving.data_facts import DataFacts
    from fusiondistill_runner.working.context import Context

    place = Store(store or f"runs/{config.experiment}")
    roots = tuple((found.fingerprint, _absolute(one.place)) for one, found in outside.data.items() if one.place)
    sets = tuple((d, absolute(folder)) for (folder, _), found in outside.corruptions.items() for d in found.values())
    batch, resources = config.evaluation.batch_size, config.resources
    share = min(1.0, resources.gpus_per_worker or 1.0)
    context = Context(
        absolute(place.location), roots, sets, batch, outside.plugins, capture=resources.capture, share=share
    )
    facts, notes, about = DataFacts(outside.networks.read), list[str](outside.networks.notes), list[Summary]()
    origins = dict[str, str]()
    for plan in plans:
        data = outside.data_of(plan.config)
        notes += recipe_notes(plan, len(data.test.classes), data.size, recipes or {})
        notes += [*outside.networks.of(plan), *facts.of(plan, data.images)]
        about.append(summary(plan.config.data, data.images))
        origins[plan.config.experiment] = outside.networks.origin(plan, data.train)
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
