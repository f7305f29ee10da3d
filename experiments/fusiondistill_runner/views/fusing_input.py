"""What the command line says of a fusion, made into what :func:`fusiondistill.fusing.fuse` takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill import safe_yaml
from fusiondistill.fusing.ingredients import BASE, CLEAN, FuseError, Ingredient, card_of_all, with_cards
from fusiondistill.registry import close_to
from fusiondistill.targets import why_no_file

if TYPE_CHECKING:
    from fusiondistill.data import ImageSet
    from fusiondistill.degradation_config import DegradationConfig
    from fusiondistill.fusing.material import Material
    from fusiondistill.recipe import Augmentation

__all__ = ["Data", "checked_target", "degradations_of", "material_of", "parameters_of"]

SUFFIXES = (".safetensors", ".pt", ".pth")
HELD_OUT = 0.1
"""The part of the training images to judge by, of a set without a validation split: that of a run by default."""


@dataclass(frozen=True)
class Data:
    """Images for a fusion.

    Attributes:
        name, root: of the data set; without a name the images are ``photos``.
        images: how many (at most) for statistics, and as many to judge by.
        settings: ``data.KEY=VALUE``, further keys of the data set as in a config.
        photos: files without labels, folders or patterns.
        told: what files without a card do not say, see :class:`fusiondistill.uncarded.Told`: model, mean, std, size.
        crop_padding, cutout: how the networks' training cut and covered images, in pixels; None: as stage directories
            say it, or not at all.
        recalibrate: see :class:`fusiondistill.fusing.material.Material`.
        device: where networks run; None: a GPU if there is one.
    """

    name: str | None
    root: str | None
    images: int
    settings: Sequence[str] = ()
    photos: Sequence[str] = ()
    told: Mapping[str, Any] = field(default_factory=dict)
    crop_padding: int | None = None
    cutout: int | None = None
    recalibrate: str = "best"
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
        raise FuseError(f"{differ}: they are no networks of one kind, and cannot see the same images")
    if not card:
        _check_told(found[0], data)
    device = device_of(data.device) if data.device else best_device()
    tasks = [one.id for one in degradations]
    if not tasks or any(one.task == CLEAN for one in found):
        tasks.insert(0, CLEAN)
    manifests = {one.name: _manifest_of(one.path) for one in found}
    augmentation = _augmentation(manifests, data)
    seen = _seen_as(tasks, augmentation, data)
    validation: ImageSet | None = None
    if data.photos:
        if not card:
            found = with_cards(found, Told(**data.told))
            card = dict(found[0].card)
        training = read_photos(data.photos, card, data.images, data.told.get("size"), tell)
        tell(f"{len(training):,} images without labels, {seen}")
    else:
        training, held_out, how = _images(data, card, seed, manifests, tell)
        if not card:
            if data.told.get("mean") is None:
                tell(f"note: images are normalised as {data.name} is: say --mean and --std if the training had others")
            found = with_cards(found, Told(**data.told).of(training))
            card = dict(found[0].card)
        _check_images(card, training)
        training, validation = (one.normalised_by(card["mean"], card["std"]) for one in (training, held_out))
        judging = f"{len(validation):,} to judge by ({how})"
        tell(f"images of {data.name}: {len(training):,} for statistics, {judging}, {seen}")
    material = Material(
        card, training, validation, degradations, tuple(tasks), data.recalibrate, seed, device, augmentation
    )
    return [replace(one, card=card) for one in found], material


def _augmentation(manifests: Mapping[str, Mapping[str, Any]], data: Data) -> Augmentation | None:
    """How the networks' training cut and covered images: as the caller says, or as all stage directories do."""
    from pydantic import ValidationError

    from fusiondistill.recipe import Augmentation

    recipes = [recipe for name, one in manifests.items() if name != BASE and (recipe := one.get("recipe"))]
    own = [{key: recipe[key] for key in Augmentation.model_fields if key in recipe} for recipe in recipes]
    known: Augmentation | None = None
    with contextlib.suppress(ValidationError):  # of another version
        known = Augmentation(**own[0]) if own and all(one == own[0] for one in own) else None
    said = {key: getattr(data, key) for key in ("crop_padding", "cutout") if getattr(data, key) is not None}
    whole: dict[str, Any] = {"crop_padding": 0, "cutout": 0, "resized_crop": None, "resized_crop_ratio": (3 / 4, 4 / 3)}
    if not said:
        return known
    return Augmentation(**{**whole, "largest_cutout": None, **(known.model_dump() if known else {}), **said})


def _manifest_of(path: str) -> Mapping[str, Any]:
    """The manifest of a stage directory; empty for anything else."""
    from fusiondistill.commits import read_manifest
    from fusiondistill.locations import open_location

    filesystem, place = open_location(path)
    folder = filesystem.get_file_info(place).type.name == "Directory"
    return (read_manifest(filesystem, place) if folder else None) or {}


def _held_out_otherwise(manifests: Mapping[str, Mapping[str, Any]], data: Data, seed: int) -> list[str]:
    """The ingredients whose training may have seen images that a set without a validation split is judged on."""
    kept = {"train_images": None, "held_out": HELD_OUT, "holdout_seed": seed}
    names = []
    for name, manifest in manifests.items():
        spec = manifest.get("spec")
        of = spec.get("data") if isinstance(spec, Mapping) else None
        if isinstance(of, Mapping) and of.get("name") == data.name and {key: of.get(key) for key in kept} != kept:
            names.append(name)
    return names


def _seen_as(tasks: Sequence[str], augmentation: Augmentation | None, data: Data) -> str:
    """What networks see, in words."""
    seen = f"each seen as {', '.join(tasks)}"
    if data.recalibrate == "average":
        return f"{seen}; BatchNorm's statistics are averaged"
    if augmentation is None:
        return f"{seen}; for statistics whole (--crop-padding and --cutout say how a training cut and covered them)"
    cut = f"cropped with a padding of {augmentation.crop_padding}"
    if augmentation.resized_crop:
        cut = f"cut to {augmentation.resized_crop[0]:g} to {augmentation.resized_crop[1]:g} of their area"
    hole = "half a side" if augmentation.cutout is None else f"{augmentation.cutout} pixels"
    return f"{seen}; for statistics {cut} and covered by a hole of {hole}"


def read_photos(
    given: Sequence[str], card: Mapping[str, Any], most: int, size: int | None, tell: Callable[[str], object]
) -> ImageSet:
    """Files without labels as images that the networks take; those that cannot be read are passed over.

    Args:
        given: files, folders, patterns.
        card: of the networks.
        most: files to read; of more they are taken evenly.
        size: of the images in pixels, where the card does not say it.

    Raises:
        DataError: there is no such file or no image, or fewer than two can be read.
        FuseError: nothing says the size of the images.
    """
    import numpy as np
    import torch

    from fusiondistill.data import DataError, ImageSet
    from fusiondistill.data.decoding import read_bounded
    from fusiondistill.data.finding import find_images
    from fusiondistill.data.names import escaped
    from fusiondistill.data.preparation import Preparation
    from fusiondistill.data.reading import ahead_of_need

    prepared = Preparation.of_card(card)
    prepared = replace(prepared, size=prepared.size or (size and (size, size)) or None, fit=prepared.fit or "crop")
    if prepared.size is None:
        raise FuseError("the networks do not say the size of their images: say it, like --size 224")
    files = find_images(given).files
    some = [files[place * len(files) // most] for place in range(most)] if len(files) > most else files
    pixels = []
    for _, reading in ahead_of_need(lambda path: prepared.prepared(read_bounded(Path(path)), path), some, ahead=64):
        try:
            pixels.append(reading.result().pixels)
        except DataError as error:
            tell(f"passed over: {error}")
    if len(pixels) < 2:
        where, read = ", ".join(map(escaped, given)), f"{len(pixels)} of {len(some)} files can be read"
        raise DataError(f"{where}: {read}; statistics need two images at least, and are better with hundreds")
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    nothing = torch.zeros(len(images), dtype=torch.int64)
    return ImageSet("photos", images, nothing, card["classes"]).normalised_by(card["mean"], card["std"])


def _check_told(one: Ingredient, data: Data) -> None:
    """Raise FuseError where nothing tells which network a file without a card is of."""
    from fusiondistill.foreign import unwrapped
    from fusiondistill.released import depth_of, renamed

    if data.told.get("model") is None and depth_of(renamed(unwrapped(one.state))) is None:
        raise FuseError(
            f"{one.path} carries no card: say which network it is, by --model NAME; and --mean R,G,B --std R,G,B where "
            "its training normalised otherwise than by the data set's"
        )


def _images(
    data: Data,
    card: Mapping[str, Any],
    seed: int,
    manifests: Mapping[str, Mapping[str, Any]],
    tell: Callable[[str], object],
) -> tuple[ImageSet, ImageSet, str]:
    """(training images, held-out images, how these were held out); test images are never read."""
    from fusiondistill.config_file import parse
    from fusiondistill.data import load_images
    from fusiondistill.data.loading import locate

    said = [f"data.name={data.name}", *([f"data.root={data.root}"] if data.root else []), *data.settings]
    of_set = parse("experiment: fuse\n", source="--set", overrides=said).data
    given: dict[str, Any] = {**of_set.loading, **({"size": data.told["size"]} if data.told.get("size") else {})}
    if card.get("fit"):
        given |= {"size": tuple(card["size"]), "fit": card["fit"]}
    images = load_images(of_set.name, "train", of_set.place, **given)
    if "validation" in locate(of_set.name, of_set.place, **given).splits:
        held_out = load_images(of_set.name, "validation", of_set.place, **given)
        how = "the set's own validation split"
    else:
        images, held_out = images.holdout(HELD_OUT, seed)
        how = f"{100 * HELD_OUT:.0f} % of the training images, held out by seed {seed} as in a run on all of them"
        if known := _held_out_otherwise(manifests, data, seed):
            tell(
                f"note: {', '.join(known)} held other images of {data.name} out of training: some of those that judge "
                "here may be known to them"
            )
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
