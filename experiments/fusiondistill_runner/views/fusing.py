"""Fuses checkpoints for the command line: what is given is checked first, then read, merged, measured and written."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill import NAME, safe_yaml
from fusiondistill.fusing.ingredients import FuseError, Ingredient, card_of_all, named, read, with_cards
from fusiondistill.registry import close_to
from fusiondistill_runner.storage.best import model_place

if TYPE_CHECKING:
    from fusiondistill.data import ImageSet
    from fusiondistill.degradation_config import DegradationConfig
    from fusiondistill.fusing.material import Material

__all__ = ["fuse_files"]

SUFFIXES = (".safetensors", ".pt", ".pth")
HELD_OUT = 0.1


def fuse_files(
    checkpoints: Sequence[str],
    method: str,
    out: str,
    tell: Callable[[str], object],
    *,
    base: str | None = None,
    settings: Sequence[str] = (),
    degradations: Sequence[str | Mapping[str, Any]] = (),
    plugins: Sequence[str] = (),
    told: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    recalibrate: str | None = None,
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
    measure: bool = True,
) -> None:
    """Merge checkpoints into one file, and tell what was measured.

    Args:
        checkpoints: ``FILE`` or ``TASK=FILE`` each.
        out: the file to write: .safetensors, .pt or .pth.
        tell: takes lines.
        base: what the checkpoints were fine-tuned from.
        settings: ``KEY=VALUE``, parameters of the method.
        degradations: names, or mappings as in a config, that tasks may name; all of them are judged on.
        told: what files without a card do not say: model, mean, std, classes.
        data: name, root and images (how many at most) of a data set; None: weights alone.
        recalibrate: ``mixed`` or ``average``; None: mixed where there are images.
        force: replace a file that is there.
        measure: False: merge and write, nothing more.

    Raises:
        FuseError, CheckpointError, DataError, UnknownEntry, ValueError: the input is wrong. Nothing is written.
    """
    target = _target(out, force=force)
    from fusiondistill.plugins import load_plugins, read_plugins

    load_plugins(read_plugins(plugins))
    from fusiondistill.fusing import check_method, fuse

    known = _degradations(degradations)
    given = named([_place_of(text) for text in checkpoints], [*known])
    inputs = [one.path for one in given] + ([base] if base else [])
    if taken := [
        path for path in inputs if "://" not in path and Path(path).expanduser().resolve() == target.resolve()
    ]:
        raise FuseError(f"--out {out} is {taken[0]}, which is fused: give another name")
    parameters = _parameters(settings)
    check_method(method, parameters, [one.name for one in given], base=base is not None, data=data is not None)
    if recalibrate == "mixed" and data is None:
        raise FuseError("--recalibrate mixed recomputes BatchNorm's statistics on images: give --data NAME")
    found = read([*given, *([Ingredient("base", model_place(base))] if base else [])])
    for one in found:
        for note in one.notes:
            tell(f"note: {one.path}: {note}")
    card, differ = card_of_all(found)
    material = None
    if data is not None:
        chosen = [known[name] for name in dict.fromkeys([*(str(_name(one)) for one in degradations), *_tasks(given)])
                  if name in known]  # fmt: skip
        found, material = _material(found, differ, dict(told or {}), data, chosen, recalibrate, seed, device, tell)
        card = dict(material.card)
    elif differ:
        tell(f"note: {differ}: {out} gets no card")
    experts = found[: len(given)]
    start = found[-1] if base else None
    fused = fuse(experts, method, parameters, base=start, material=material, seed=seed, measure=measure)
    from fusiondistill.fusing.lines import lines

    for line in lines(fused, [one.name for one in experts]):
        tell(line)
    if material is None and any(key.endswith("running_var") for key in fused.state):
        tell("note: BatchNorm's statistics are averaged, and fit no merged network well: give --data to recompute them")
    size = _write(target, fused.state, card)
    tell(f"\nwritten: {out} ({size / 1e6:,.2f} MB)" + ("" if card else ", without a card: readers need --model"))
    if card and target.suffix == ".safetensors":
        tell(f"use: {NAME} evaluate {out} --data {card['dataset'] or 'NAME'}")


def _place_of(text: str) -> str:
    """An argument with a store replaced by its best network."""
    task, mark, path = text.partition("=")
    if mark and "/" not in task and not Path(text).exists():
        return f"{task}={model_place(path)}"
    return model_place(text)


def _target(out: str, *, force: bool) -> Path:
    """The path to write to, checked before any work."""
    import os

    path = Path(out).expanduser()
    if "://" in out:
        raise FuseError(f"--out {out}: a fusion goes to this machine's disk; copy it from there")
    if path.suffix not in SUFFIXES:
        raise FuseError(f"--out {out}: the name of the file must end with {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise FuseError(f"--out {out} is a folder: give the name of a file")
    if (path.exists() or path.is_symlink()) and not force:
        raise FuseError(f"--out {out} is there already: give another name, or --force to replace it")
    if not path.parent.is_dir():
        raise FuseError(f"--out {out}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise FuseError(f"--out {out}: the folder {path.parent} takes no files from you")
    return path


def _name(given: str | Mapping[str, Any]) -> Any:
    return given if isinstance(given, str) else given.get("as") or given.get("name")


def _degradations(given: Sequence[str | Mapping[str, Any]]) -> dict[str, DegradationConfig]:
    """Id -> each degradation that a task may name: those that are given, and all that are registered."""
    from pydantic import ValidationError

    from fusiondistill.degradation_config import DegradationConfig
    from fusiondistill.degradations import DEGRADATIONS

    found = {name: DegradationConfig.model_validate(name) for name in DEGRADATIONS}
    for one in given:
        try:
            made = DegradationConfig.model_validate(one)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise FuseError(f"--degradation {one}: {key + ': ' if key else ''}{first['msg']}") from None
        if made.name not in DEGRADATIONS:
            raise FuseError(f"--degradation {one}: no degradation {made.name!r}{close_to(made.name, [*DEGRADATIONS])}")
        found[made.id] = made
    return found


def _parameters(settings: Sequence[str]) -> dict[str, Any]:
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


def _tasks(given: Sequence[Ingredient]) -> list[str]:
    return list(dict.fromkeys(one.task for one in given if one.task))


def _material(
    found: Sequence[Ingredient],
    differ: str,
    told: dict[str, Any],
    data: Mapping[str, Any],
    degradations: Sequence[DegradationConfig],
    recalibrate: str | None,
    seed: int,
    device: str | None,
    tell: Callable[[str], object],
) -> tuple[list[Ingredient], Material]:
    """The ingredients with cards, and the images."""
    from fusiondistill.devices import best_device, device_of
    from fusiondistill.fusing.ingredients import CLEAN
    from fusiondistill.fusing.material import Material
    from fusiondistill.uncarded import Told

    if differ:
        raise FuseError(f"{differ}: they are no networks of one kind, and cannot be judged on the same images")
    place = device_of(device) if device else best_device()
    bare = [one for one in found if not one.card]
    card = next((one.card for one in found if one.card), None)
    training, validation, how = _images(data, card, seed)
    if bare and card is None and told.get("model") is None:
        from fusiondistill.released import depth_of, renamed

        if depth_of(renamed(dict(bare[0].state))) is None:
            raise FuseError(
                f"{bare[0].path} carries no card: say which network it is, by --model NAME; and --mean R,G,B --std "
                "R,G,B where its training normalised otherwise than by the data set's"
            )
    if card is None:
        if told.get("mean") is None:
            tell(f"note: images are normalised as {data['name']} is: say --mean and --std if the training had others")
        found = with_cards(found, Told(**told).of(training))
    else:
        found = [replace(one, card=card) for one in found]
    card = found[0].card
    if list(card["classes"]) != list(training.classes):
        raise FuseError(
            f"the networks tell {len(card['classes'])} classes apart ({', '.join(card['classes'][:3])}, ...), and "
            f"{data['name']} has {len(training.classes)} ({', '.join(training.classes[:3])}, ...)"
        )
    training = training.normalised_by(tuple(card["mean"]), tuple(card["std"]))
    validation = validation.normalised_by(tuple(card["mean"]), tuple(card["std"]))
    tasks = [one.id for one in degradations]
    if not tasks or any(one.task == CLEAN for one in found):
        tasks.insert(0, CLEAN)
    tell(f"images of {data['name']}: {len(training):,} for statistics, {len(validation):,} to judge by ({how}), each "
         f"seen as {', '.join(tasks)}")  # fmt: skip
    return list(found), Material(
        card, training, validation, degradations, tuple(tasks), recalibrate or "mixed", seed, place
    )


def _images(data: Mapping[str, Any], card: Mapping[str, Any] | None, seed: int) -> tuple[ImageSet, ImageSet, str]:
    """(training images, held-out images, how these were held out); test images are never read."""
    from fusiondistill.data import load_images
    from fusiondistill.data.loading import locate

    name, root, most = data["name"], data.get("root"), data["images"]
    size = {"size": tuple(card["size"]), "fit": card.get("fit", "crop")} if card and card.get("fit") else {}
    images = load_images(name, "train", root, **size)
    if "validation" in locate(name, root, **size).splits:
        held_out, how = load_images(name, "validation", root, **size), "the set's own validation split"
    else:
        images, held_out = images.holdout(HELD_OUT, seed)
        how = f"{100 * HELD_OUT:.0f} % of the training images, held out by seed {seed} as in a run on all of them"
    return images.take(min(most, len(images))), held_out.take(min(most, len(held_out))), how


def _write(target: Path, state: Mapping[str, Any], card: Mapping[str, Any]) -> int:
    """Write the file as a whole; returns its size in bytes."""
    from fusiondistill.checkpoints import to_safetensors
    from fusiondistill.locations import open_location, write_file

    if target.suffix == ".safetensors":
        data = to_safetensors(state, card)
    else:
        import torch

        stream = io.BytesIO()
        torch.save(dict(state), stream)
        data = stream.getvalue()
    write_file(*open_location(target), data)
    return len(data)
