"""What a plan's images are like: facts to say, and what makes them useless, found before a worker starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from fusiondistill.checkpoints import CheckpointError
from fusiondistill.config import Config
from fusiondistill.counting import counted
from fusiondistill.data import DataError
from fusiondistill.data.class_names import difference, permutation
from fusiondistill.data.errors import WrongValue
from fusiondistill.evaluation import MIXED_BATCH
from fusiondistill.feeding import too_large
from fusiondistill.resolution import where
from fusiondistill.sources import SOURCES
from fusiondistill_runner.driving.data_summary import few
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.search_space import candidates
from fusiondistill_runner.planning.specs import CheckpointSpec, MergeSpec, SearchSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import whole_recipe

if TYPE_CHECKING:
    import torch

    from fusiondistill.data import ImageSet

__all__ = ["DataFacts"]

SHOWN = 10
MOST_DRAWN = 10_000
"""Candidates of a search that are looked at."""


class DataFacts:
    """Looks at the images and the plans of several experiments, at what they share once.

    Args:
        read: gives state dict and card of a checkpoint.
    """

    def __init__(self, read: Callable[[str], tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]]) -> None:
        self._read = read
        self._of_data: dict[tuple[Any, ...], tuple[list[str], list[str], int]] = {}
        self._cards: dict[tuple[Any, ...], tuple[Mapping[str, Any], tuple[str, ...]]] = {}

    def of(self, plan: Plan, images: Mapping[str, ImageSet]) -> list[str]:
        """What users should know of a plan's images, by split, a sentence each.

        Raises:
            DataError, CheckpointError: the images, or a checkpoint beside them, cannot be used; see below.
        """
        config, train, test = plan.config, images["train"], images["test"]
        held_out = 0.0 if plan.validation else config.held_out
        key = (config.data, held_out)
        if key not in self._of_data:
            notes, own = _facts_of_data(config, images, held_out), images.get("validation")
            if own is not None and not plan.validation:
                why = (
                    "data.validation says what is held out" if config.data.validation is not None else "none is needed"
                )
                notes.append(f"{config.data.name}: its {len(own):,} validation images are not used, since {why}")
            count = _training_images(config, train, held_out)
            held = len(_taken(train, config.data.train_images)) - count
            judged = len(own) if own is not None and plan.validation else held
            doubts = list(few("validation", judged, "the accuracy by which epochs and networks are chosen"))
            self._of_data[key] = (notes, doubts, count)
        notes, doubts, count = self._of_data[key]
        notes = notes + doubts if any(isinstance(stage.spec, TrainSpec) for stage in plan.stages) else notes
        return [*notes, *_facts_of_plan(plan, train, count), *self._of_checkpoints(plan, train, test.size)]

    def _of_checkpoints(self, plan: Plan, train: ImageSet, size: tuple[int, int]) -> Iterator[str]:
        from fusiondistill.starting import other_classes

        name, classes, resized = plan.config.data.name, list(train.classes), list[str]()
        for spec in (stage.spec for stage in plan.stages if isinstance(stage.spec, CheckpointSpec)):
            card, done = self._card(spec, train)
            if done:
                yield f"{spec.path}: {'; '.join(done)}"
            known, learned = card.get("classes"), card.get("size")
            if known is not None and list(known) != classes:
                if permutation(known, classes) is None:
                    told = difference(known, classes)
                    raise CheckpointError(
                        f"{spec.path} was trained for other classes than {name} has: {told}. "
                        f"{other_classes(spec.model, spec.path)}"
                    )
                yield f"{spec.path}: the same classes in another order; its outputs are matched by their names"
            if isinstance(learned, list) and len(learned) == 2 and learned != list(size):
                resized.append(
                    f"{spec.path} was trained on images of {learned[1]}x{learned[0]} pixels, those of {name} have "
                    f"{size[1]}x{size[0]}: expect lower accuracy"
                )
        yield from resized

    def _card(self, spec: CheckpointSpec, train: ImageSet) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """The card of a checkpoint, and what was done to its names; CheckpointError where its weights do not fit."""
        from fusiondistill.starting import built, finished

        key = (spec.path, spec.model, len(train.classes))
        if key not in self._cards:
            state, card = self._read(spec.path)
            notes: tuple[str, ...] = ()
            named = card.get("classes")
            if named is None or len(named) == len(train.classes):  # else the classes are told by their names
                count = len(train.classes)
                notes = finished(built(spec.model, count), spec.model, count, (state, card), spec.path).notes
            self._cards[key] = card, notes
        return self._cards[key]


def _training_images(config: Config, train: ImageSet, held_out: float) -> int:
    """How many images are trained on."""
    images = _taken(train, config.data.train_images)
    return len(images) - (len(images.holdout(held_out, seed=0)[1]) if held_out else 0)


def _facts_of_data(config: Config, images: Mapping[str, ImageSet], held_out: float) -> list[str]:
    """Look at all splits of a config.

    Returns:
        what users should know, a sentence each.

    Raises:
        DataError: one class alone, images of a class that cannot be learned, a channel that is the same everywhere, or
            nothing to validate on.
    """
    train, test = images["train"], images["test"]
    name, classes = config.data.name, train.classes
    for split, own in images.items():
        if list(classes) != list(own.classes):
            raise DataError(f"{name}: the {split} split has other classes: {difference(own.classes, classes)}.")
        if SOURCES[name].facts["by_split"]:  # the user's own; a part of a published set may lack a class
            _check_learned(split, own, train)
    counts = train.labels.bincount(minlength=len(classes)).tolist()
    filled = [label for label, count in enumerate(counts) if count]
    if len(filled) < 2:
        raise DataError(
            f"{name}: all {len(train):,} training images are of one class, {classes[filled[0]]!r}: "
            "there is nothing to tell apart. Add images of a second class."
        )
    _check_channels(config, train)
    notes = [note for own in images.values() for note in own.notes]
    notes += [*_lacking("training", train), *_lacking("test", test)]
    sizes = [" x ".join(map(str, one.size[::-1])) for one in (train, test)]
    if sizes[0] != sizes[1]:
        notes.append(f"{name}: the training images have {sizes[0]} pixels, the test images {sizes[1]}")
    if config.data.std is None and min(train.std) < 1:
        notes.append(f"{name}: the deviation of a channel is {min(train.std):.2g} of 255: nearly all pixels are alike")
    if large := too_large(_taken(train, config.data.train_images)):
        notes.append(large)
    _check_held_out(config, train, held_out)
    return list(dict.fromkeys(notes))


def _check_learned(split: str, images: ImageSet, train: ImageSet) -> None:
    """Raise DataError where a split has images of a class that has no training image."""
    learned, there = (one.labels.bincount(minlength=len(train.classes)) > 0 for one in (train, images))
    if lost := (there & ~learned).nonzero().flatten().tolist():
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        count = int((~learned)[images.labels].sum())
        of = f"{counted(count, 'image')} of {counted(len(lost), 'class')}"
        raise DataError(
            f"{images.name}: the {split} split has {of} without a training image: "
            f"{', '.join(str(train.classes[label]) for label in lost[:SHOWN])}{more}. Add training images, or "
            "leave those out."
        )


def _lacking(split: str, images: ImageSet) -> Iterator[str]:
    counts = images.labels.bincount(minlength=len(images.classes)).tolist()
    empty = [name for name, count in zip(images.classes, counts, strict=True) if not count]
    if empty:
        more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
        yield f"{images.name}: without a {split} image: {len(empty)} of {counted(len(counts), 'class')}: " + (
            f"{', '.join(map(str, empty[:SHOWN]))}{more}"
        )


def _check_channels(config: Config, train: ImageSet) -> None:
    if config.data.std is not None or all(value > 0 for value in train.std):
        return
    names = ", ".join(n for n, value in zip(("red", "green", "blue"), train.std, strict=True) if value == 0)
    what = "all pixels of all training images are the same" if not any(train.std) else f"{names} is the same everywhere"
    mean = [round(value, 2) for value in train.mean]
    std = [round(value, 2) or 1.0 for value in train.std]
    raise DataError(
        f"{config.data.name}: {what}, so images cannot be divided by their deviation, which is 0. Are these the right "
        f"images? If so, say data.mean: {mean} and data.std: {std}."
    )


def _check_held_out(config: Config, train: ImageSet, held_out: float) -> None:
    if not held_out:
        return
    images = _taken(train, config.data.train_images)
    try:
        images.holdout(held_out, seed=0)
    except DataError as error:
        raise DataError(f"{config.data.name}: data.validation: {error}") from error


def _taken(images: ImageSet, wanted: int | None) -> ImageSet:
    return images if wanted is None or wanted >= len(images) else images.take(wanted)


def _facts_of_plan(plan: Plan, train: ImageSet, count: int) -> list[str]:
    """Look at a plan's trainings and merges beside the ``count`` training images.

    Returns:
        what users should know, a sentence each.

    Raises:
        DataError: a batch of one image that a network with BatchNorm cannot be trained on.
    """
    config, notes = plan.config, list[str]()
    lonely: dict[str, str] = {}
    for stage in plan.stages:
        spec = stage.spec.train if isinstance(stage.spec, SearchSpec) else stage.spec
        if isinstance(spec, TrainSpec):
            sizes = {spec.recipe.batch_size, *_searched(stage, "batch_size")}
            if (largest := max(sizes)) > count:
                notes.append(f"{stage.name}: its batch of {largest:,} holds all {count:,} training images")
            for size in sizes:
                if (count % size or size) * max(1, len(spec.degradations)) == 1:
                    better = next((n for n in range(size - 1, 1, -1) if count % n != 1), size + 1)
                    told = f"batches of {size:,} images leave one of {count:,}, a batch_size of {better:,} does not"
                    lonely.setdefault(stage.name, told)
            for weights in (spec.recipe.class_weights, *_searched(stage, "class_weights")):
                _check_weights(config, stage, weights, train)
        elif isinstance(spec, MergeSpec) and spec.recalibrate != "none":
            seen = min(spec.images, count)
            if (1 if spec.told else len(spec.degradations)) * (seen % MIXED_BATCH) == 1:
                lonely.setdefault(stage.name, f"batches of {MIXED_BATCH} images leave one of {seen:,} (start.images)")
    if lonely and _needs_two(config, train):
        raise DataError(_one_image(config, lonely))
    return list(dict.fromkeys(notes))


def _searched(stage: Stage, key: str) -> Iterable[Any]:
    """The values that a search gives to a key of the recipe; all that it may give where these are listed."""
    spec = stage.spec
    dimension = spec.space.get(key) if isinstance(spec, SearchSpec) else None
    if dimension is None or not isinstance(spec, SearchSpec):
        return ()
    if dimension.integers is None:
        return dimension.choice or dimension.grid or ()
    if spec.searcher == "optuna":
        return range(dimension.integers[0], dimension.integers[1] + 1)
    drawn = candidates(spec, whole_recipe(stage), stage.seed)
    return [values[key] for values in islice(drawn, MOST_DRAWN)]


def _check_weights(config: Config, stage: Stage, weights: Any, train: ImageSet) -> None:
    """Class weights must be those of the classes that there are."""
    from fusiondistill.balancing import class_weights_of

    try:
        class_weights_of(weights, train.labels, train.classes)
    except ValueError as error:
        said = [name for name, method in config.table.items() if getattr(method, "class_weights", None) == weights]
        place = where(said[0], "class_weights") if said else ("search", "space", "class_weights")
        lost = [name for name in weights if name not in train.classes] if isinstance(weights, Mapping) else []
        raise WrongValue((*place, *lost[:1]), f"{str(error).removeprefix('class_weights: ')} ({stage.name})") from error


def _needs_two(config: Config, train: ImageSet) -> bool:
    """Whether the network cannot be trained on one image: torch says so of a BatchNorm that sees one value a channel.

    Asked on torch's meta device, which computes shapes alone. A plugin's network that cannot be built there is not
    asked.
    """
    import torch

    from fusiondistill.models.build import build

    model = config.model
    try:
        with torch.random.fork_rng([]), torch.device("meta"):
            network = build(model.name, len(train.classes), model.feature_layer, model.parameters).train()
            network(torch.empty(1, 3, *train.size))
    except ValueError as error:
        return "more than 1 value per channel" in str(error)
    except Exception:  # whatever a network does that has no shape alone
        return False
    return False


def _one_image(config: Config, lonely: dict[str, str]) -> str:
    shown = "; ".join(f"{name}: {text}" for name, text in list(lonely.items())[:SHOWN])
    return (
        f"a batch of one image cannot train {config.model.name}: its BatchNorm sees a single value per channel "
        f"({shown}). Change that, or how many images there are (data.train_images, data.validation)."
    )
