"""What the command line says of a fusion, made into what :func:`fusiondistill.fusing.fuse` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill import safe_yaml
from fusiondistill.fusing.ingredients import CLEAN, FuseError, Ingredient, card_of_all, with_cards
from fusiondistill.registry import close_to
from fusiondistill.targets import why_no_file

if TYPE_CHECKING:
    from fusiondistill.data import ImageSet
    from fusiondistill.degradation_config import DegradationConfig
    from fusiondistill.fusing.material import Material

__all__ = ["Data", "checked_target", "degradations_of", "material_of", "parameters_of"]

SUFFIXES = (".safetensors", ".pt", ".pth")
HELD_OUT = 0.1
"""The part of the training images to judge by, of a set without a validation split: that of a run by default."""


@dataclass(frozen=True)
class Data:
    """Images for a fusion.

    Attributes:
        name, root: of the data set.
        images: how many (at most) for statistics, and as many to judge by.
        told: what files without a card do not say, see :class:`fusiondistill.uncarded.Told`: model, mean, std, size.
        recalibrate: ``mixed`` or ``average``.
        device: where networks run; None: a GPU if there is one.
    """

    name: str
    root: str | None
    images: int
    told: Mapping[str, Any] = field(default_factory=dict)
    recalibrate: str = "mixed"
    device: str | None = None


def checked_target(out: str, *, force: bool) -> Path:
    """The path to write to; FuseError where nothing can be written there."""
    path = Path(out).expanduser()
    if path.suffix not in SUFFIXES:
        raise FuseError(f"--out {out}: the name of the file must end with {', '.join(SUFFIXES)}")
    if why := why_no_file(out, force=force):
        raise FuseError(f"--out {out}: {why}")
    return path


def degradations_of(given: Sequence[str | Mapping[str, Any]]) -> tuple[dict[str, DegradationConfig], list[str]]:
    """(id -> each degradation that a task may name, the ids of those that are given).

    Raises:
        FuseError: a mapping that says something wrong, or an unknown name.
    """
    from pydantic import ValidationError

    from fusiondistill.degradation_config import DegradationConfig
    from fusiondistill.degradations import DEGRADATIONS

    known, asked = {name: DegradationConfig.model_validate(name) for name in DEGRADATIONS}, []
    for one in given:
        try:
            made = DegradationConfig.model_validate(one)
        except ValidationError as error:
            first = error.errors()[0]
            key = "".join(f"{part}: " for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise FuseError(f"--degradation {one}: {key}{message}") from None
        if made.name not in DEGRADATIONS:
            raise FuseError(f"--degradation {one}: no degradation {made.name!r}{close_to(made.name, [*DEGRADATIONS])}")
        known[made.id] = made
        asked.append(made.id)
    return known, asked


def parameters_of(settings: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` each, with a value as YAML has it."""
    found: dict[str, Any] = {}
    for text in settings:
        key, mark, value = text.partition("=")
        if not mark or not key.strip():
            raise FuseError(f"--set {text}: write KEY=VALUE, like --set scale=0.5")
        try:
            found[key.strip()] = safe_yaml.read(value)[0]
        except safe_yaml.YAMLProblem as error:
            raise FuseError(f"--set {text}: {error}") from error
    return found


def material_of(
    found: Sequence[Ingredient],
    data: Data,
    degradations: Sequence[DegradationConfig],
    seed: int,
    tell: Callable[[str], object],
) -> tuple[list[Ingredient], Material]:
    """The ingredients, all with a card, and the images. Without a degradation networks are judged on clean images.

    Raises:
        FuseError: networks of several kinds, a file without a card that says too little, other classes or another size
            than the images have.
        DataError, CheckpointError, ValueError: the images cannot be read; weights do not fit the network.
    """
    from fusiondistill.devices import best_device, device_of
    from fusiondistill.fusing.material import Material
    from fusiondistill.uncarded import Told

    card, differ = card_of_all(found)
    if differ:
        raise FuseError(f"{differ}: they are no networks of one kind, and cannot be judged on the same images")
    if not card:
        _check_told(found[0], data)
    device = device_of(data.device) if data.device else best_device()
    training, validation, how = _images(data, card, seed)
    if not card:
        if data.told.get("mean") is None:
            tell(f"note: images are normalised as {data.name} is: say --mean and --std if the training had others")
        found = with_cards(found, Told(**data.told).of(training))
        card = dict(found[0].card)
    _check_images(card, training)
    training, validation = (one.normalised_by(card["mean"], card["std"]) for one in (training, validation))
    tasks = [one.id for one in degradations]
    if not tasks or any(one.task == CLEAN for one in found):
        tasks.insert(0, CLEAN)
    tell(f"images of {data.name}: {len(training):,} for statistics, {len(validation):,} to judge by ({how}), each seen "
         f"as {', '.join(tasks)}")  # fmt: skip
    material = Material(card, training, validation, degradations, tuple(tasks), data.recalibrate, seed, device)
    return [replace(one, card=card) for one in found], material


def _check_told(one: Ingredient, data: Data) -> None:
    """Raise FuseError where nothing tells which network a file without a card is of."""
    from fusiondistill.foreign import unwrapped
    from fusiondistill.released import depth_of, renamed

    if data.told.get("model") is None and depth_of(renamed(unwrapped(one.state))) is None:
        raise FuseError(
            f"{one.path} carries no card: say which network it is, by --model NAME; and --mean R,G,B --std R,G,B where "
            "its training normalised otherwise than by the data set's"
        )


def _images(data: Data, card: Mapping[str, Any], seed: int) -> tuple[ImageSet, ImageSet, str]:
    """(training images, held-out images, how these were held out); test images are never read."""
    from fusiondistill.data import load_images
    from fusiondistill.data.loading import locate

    size: dict[str, Any] = {"size": data.told["size"]} if data.told.get("size") else {}
    if card.get("fit"):
        size = {"size": tuple(card["size"]), "fit": card["fit"]}
    images = load_images(data.name, "train", data.root, **size)
    if "validation" in locate(data.name, data.root, **size).splits:
        held_out, how = load_images(data.name, "validation", data.root, **size), "the set's own validation split"
    else:
        images, held_out = images.holdout(HELD_OUT, seed)
        how = f"{100 * HELD_OUT:.0f} % of the training images, held out by seed {seed} as in a run on all of them"
    return images.at_most(data.images), held_out.at_most(data.images), how


def _check_images(card: Mapping[str, Any], images: ImageSet) -> None:
    """Raise FuseError where networks are for other classes, or for images of another size."""
    own, there, name = list(card["classes"]), list(images.classes), images.name
    if own != there:
        pairs = zip([*own, None], [*there, None], strict=False)
        mine, other = next(pair for pair in pairs if pair[0] != pair[1])
        text = f"the networks tell {len(own)} classes apart, and {name} has {len(there)}"
        raise FuseError(f"{text}: the first that differ are {mine!r} and {other!r}")
    (height, width), size = images.size, list(card.get("size", ()))
    if size and size != [height, width]:
        text = f"the networks are for images of {size[1]}x{size[0]} pixels"
        raise FuseError(f"{text}, and those of {name} have {width}x{height}")
