"""Fuses checkpoints for the command line: what is given is checked first, then read, merged, measured and written."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusiondistill import NAME
from fusiondistill.fusing.ingredients import BASE, FuseError, Ingredient, card_of_all, named, read
from fusiondistill_runner.storage.best import model_place
from fusiondistill_runner.views.fusing_input import Data, checked_target, degradations_of, material_of, parameters_of

__all__ = ["fuse_files"]


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
    data: Data | None = None,
    seed: int = 0,
    force: bool = False,
    measure: bool = True,
) -> None:
    """Merge checkpoints into one file, and tell what was measured.

    Args:
        checkpoints: ``FILE`` or ``TASK=FILE`` each.
        out: the file to write: .safetensors, .pt or .pth.
        tell: takes lines.
        base: what the checkpoints were fine-tuned from.
        settings: ``KEY=VALUE``, parameters of the method; ``data.KEY=VALUE``, of the data set.
        degradations: names, or mappings as in a config; networks are judged on them, and tasks may name them.
        data: images; None: weights alone.
        seed: of the held-out part, and of random numbers.
        force: replace a file that is there.
        measure: False: merge and write, nothing more.

    Raises:
        FuseError, CheckpointError, DataError, UnknownEntry, ValueError: the input is wrong. Nothing is written.
    """
    target = checked_target(out, force=force)
    from fusiondistill.plugins import load_plugins, read_plugins

    load_plugins(read_plugins(plugins))
    from fusiondistill.fusing import check_method, fuse
    from fusiondistill.fusing.lines import lines

    known, asked = degradations_of(degradations)
    given = named(checkpoints, [*known], model_place)
    of_data = [text for text in settings if text.startswith("data.")]
    parameters = parameters_of([text for text in settings if text not in of_data])
    if of_data and (data is None or data.photos):
        raise FuseError(f"--set {of_data[0]}: is about a data set: give --data NAME, too")
    data = data and replace(data, settings=of_data)
    photos = data is not None and bool(data.photos)
    labelled = data is not None and not photos
    names = [one.name for one in given]
    check_method(method, parameters, names, base=base is not None, data=labelled, photos=photos)
    if base:
        given.append(Ingredient(BASE, model_place(base)))
    _check_apart(given, target, out)
    found = read(given)
    for one in found:
        for note in one.notes:
            tell(f"note: {one.path}: {note}")
    card, differ = card_of_all(found)
    material = None
    if data is not None:
        ids = dict.fromkeys([*asked, *(one.task for one in found if one.task in known)])
        found, material = material_of(found, data, [known[name] for name in ids], seed, tell)
        card = dict(material.card)
    elif differ:
        tell(f"note: {differ}: {out} gets no card")
    experts, start = (found[:-1], found[-1]) if base else (found, None)
    fused = fuse(experts, method, parameters, base=start, material=material, seed=seed, measure=measure)
    for line in lines(fused, [one.name for one in experts]):
        tell(line)
    if material is None and any(key.endswith("running_var") for key in fused.state):
        tell(
            "note: BatchNorm's statistics are averaged; recomputed ones may fit better: give images, --data NAME, or "
            "--photos FOLDER where they have no labels"
        )
    _write(target, fused.state, card, out, data, tell)


def _check_apart(given: Sequence[Ingredient], target: Path, out: str) -> None:
    """Raise FuseError where the file to write is one of those that are read."""
    for one in given:
        if "://" not in one.path and Path(one.path).expanduser().resolve() == target.resolve():
            raise FuseError(f"--out {out} is {one.path}, which is fused: give another name")


def _write(
    target: Path,
    state: Mapping[str, Any],
    card: Mapping[str, Any],
    out: str,
    data: Data | None,
    tell: Callable[[str], object],
) -> None:
    """Write the file as a whole, and say how it is used."""
    from fusiondistill.checkpoints import to_safetensors
    from fusiondistill.locations import open_location, write_file

    carries = target.suffix == ".safetensors"
    if carries:
        content = to_safetensors(state, card)
    else:
        import torch

        stream = io.BytesIO()
        torch.save(dict(state), stream)
        content = stream.getvalue()
    write_file(*open_location(target), content)
    tell(f"\nwritten: {out} ({len(content) / 1e6:,.2f} MB)")
    of_set = "--data NAME"
    if data is not None and data.name:
        words = ["--data", data.name, *(["--root", data.root] if data.root else [])]
        of_set = shlex.join([*words, *(word for text in data.settings for word in ("--set", text))])
    if carries and card:
        tell(f"use: {NAME} predict {shlex.quote(out)} PHOTO..., or {NAME} evaluate {shlex.quote(out)} {of_set}")
    else:
        told = "--model NAME --mean R,G,B --std R,G,B"
        tell(f"it carries no card: {NAME} evaluate {shlex.quote(out)} {of_set} {told}")
