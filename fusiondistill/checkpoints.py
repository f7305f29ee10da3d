"""Checkpoints: weights as safetensors with their card, committed with a manifest or as a single file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill import NAME
from fusiondistill.cards import HOW, card_of, check_card, check_plugin
from fusiondistill.commits import (
    MANIFEST,
    CheckpointError,
    check_size,
    commit,
    digest,
    new_attempt,
    read_file,
    read_manifest,
    sealed,
    unsealed,
)
from fusiondistill.locations import open_location, read_whole, write_file
from fusiondistill.no_models import no_network, no_path, no_weights
from fusiondistill.released import renamed
from fusiondistill.torch_files import UnreadObjects, parse_torch

if TYPE_CHECKING:
    import torch
    from pyarrow.fs import FileSystem

    from fusiondistill.data import ImageSet
    from fusiondistill.foreign import Matched
    from fusiondistill.models import ImageClassifier
    from fusiondistill.models.whole import Whole

__all__ = [
    "MANIFEST",
    "MODEL",
    "CheckpointError",
    "UnreadObjects",
    "card_of",
    "check_card",
    "check_plugin",
    "check_size",
    "checkpoint_digest",
    "commit",
    "digest",
    "fitted",
    "from_card",
    "load_checkpoint",
    "load_model",
    "model_of",
    "new_attempt",
    "open_location",
    "read_file",
    "read_manifest",
    "save_checkpoint",
    "sealed",
    "unsealed",
    "write_file",
]

MODEL = "model.safetensors"


def to_safetensors(state_dict: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> bytes:
    """Weights and their card as the bytes of one safetensors file.

    Raises:
        CheckpointError: a weight or a statistic is NaN or infinite; the message names its tensor.
    """
    from safetensors.torch import save

    _check_finite(state_dict, "what is to be stored")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    data: bytes = save(tensors, metadata={NAME: json.dumps(card, sort_keys=True)})
    return data


def save_checkpoint(path: str | Path, state_dict: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Save weights and their card (:func:`card_of`).

    Args:
        path: a ``.safetensors`` file, or else a directory that gets ``manifest.json`` beside the weights; may be a URI.
        state_dict: tensors of any dtype.
        card: JSON-able.
    """
    data = to_safetensors(state_dict, card)
    filesystem, place = open_location(path)
    if place.endswith(".safetensors"):
        write_file(filesystem, place, data)
    else:
        commit(filesystem, place, {MODEL: data}, {"card": dict(card)}, new_attempt())


def load_checkpoint(path: str | Path, *, as_written: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Load weights and their card.

    Args:
        path: a path or a URI, of one of these:

            - a store, which stands for its best network;
            - a directory with a manifest (a stage of a store, or what :func:`save_checkpoint` wrote) or with a
              ``model.safetensors`` (such as ``STORE/best``);
            - a ``.safetensors`` file;
            - a file of ``torch.save`` with a state dict, by itself or beside other things under a key such as
              ``state_dict`` or ``model`` (a Lightning checkpoint, for example). It is read with
              ``weights_only=True``: an object that is no weight is never made, and :class:`UnreadObjects` warns of it.
        as_written: keep the names of a file without a card.

    Returns:
        The state dict on the CPU, and the card: empty for files that carry none. In such a file half precision becomes
        float32, names lose the prefixes of wrappers (``module.``, ``_orig_mod.``, ``model.``, ``net.``) where all have
        them, and the names of the paper's released code become ours.

    Raises:
        CheckpointError: missing, damaged, not a checkpoint, or with values that are not finite.
    """
    from fusiondistill.foreign import unwrapped

    filesystem, place, manifest = _find(path)
    if manifest is not None:
        state, card = parse_weights(read_file(filesystem, place, manifest, MODEL), f"{place}/{MODEL}")
    else:
        state, card = parse_weights(_read_single(filesystem, place, path), place if "://" in str(path) else str(path))
    return state if card or as_written else renamed(unwrapped(state)), card


def fitted(
    state: Mapping[str, torch.Tensor],
    card: Mapping[str, Any],
    source: str,
    model: str,
    expected: Mapping[str, torch.Tensor],
    *,
    optional: Collection[str] = (),
) -> Matched:
    """The weights of a checkpoint under the names of a network, from this project or another program.

    Args:
        state, card: as :func:`load_checkpoint` gives them ``as_written``.
        source: where they come from, for messages.
        model: the network's name, for messages.
        expected: its state dict.
        optional: names that may be missing or have another shape; see :func:`fusiondistill.foreign.matched`.

    Raises:
        CheckpointError: the weights do not fit, and the message says what was tried; or the card is none, or names
            another plugin.
    """
    from fusiondistill.foreign import Unmatched, matched

    if card:
        check_card(card, source)
        if HOW in card:
            raise CheckpointError(several(source, card))
        if card["model"] == model:
            check_plugin(card, source)
    try:
        return matched(expected, state, optional=optional)
    except Unmatched as error:
        raise CheckpointError(f"{source} does not fit {model}: {error}") from error


def _find(path: str | Path) -> tuple[FileSystem, str, dict[str, Any] | None]:
    """(file system, path, manifest) of a checkpoint; the manifest is None for a single file."""
    filesystem, place = open_location(path)
    place = place.removesuffix("/" + MANIFEST)
    if place.endswith((".safetensors", ".pt", ".pth")):
        return filesystem, place, None
    manifest = read_manifest(filesystem, place)
    if manifest is None:
        there = [f"{place}/{MODEL}", f"{place}/best/{MODEL}", f"{place}/plans"]
        own, best, plans = filesystem.get_file_info(there)
        if own.is_file:  # a folder that was exported, or the best network of a store
            place = own.path
        elif best.is_file and plans.type.name == "Directory":  # a store
            place = best.path
    elif MODEL not in manifest["files"]:
        raise CheckpointError(no_network(manifest, path))
    return filesystem, place, manifest


def _read_single(filesystem: FileSystem, place: str, path: str | Path) -> bytes:
    from pyarrow import fs

    folder = filesystem.get_file_info(place).type == fs.FileType.Directory
    data = None if folder else read_whole(filesystem, place)
    if data is None:
        raise CheckpointError(no_path(filesystem, place, path))
    return data


def checkpoint_digest(path: str | Path) -> str:
    """sha256 of the file with a checkpoint's weights; ``path`` as for :func:`load_checkpoint`.

    Raises:
        CheckpointError: missing, or its manifest is damaged.
    """
    filesystem, place, manifest = _find(path)
    if manifest is None:
        return digest(_read_single(filesystem, place, path))
    return str(manifest["files"][MODEL]["sha256"])


_OF_TORCH_SAVE = (b"PK\x03\x04", b"\x80")
"""How its files begin, under any suffix (``.ckpt``, ``.pth.tar``, ...). safetensors files begin with 8 bytes and {."""


def parse_weights(data: bytes, source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the card in the bytes of a safetensors or torch file. Pickles are read with ``weights_only``.

    Raises:
        CheckpointError: the bytes are no such file, or a weight or a statistic is NaN or infinite.
    """
    from fusiondistill.foreign import widened

    if data[8:9] != b"{" and not data.startswith(_OF_TORCH_SAVE) and not source.endswith(".safetensors"):
        raise CheckpointError(no_weights(data, source))
    pickled = data.startswith(_OF_TORCH_SAVE) and (data[8:9] != b"{" or source.endswith((".pt", ".pth")))
    tensors, card = (parse_torch(data, source), {}) if pickled else _parse_safetensors(data, source)
    _check_finite(tensors, source)
    return tensors if card else widened(tensors), card


def _check_finite(state_dict: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise CheckpointError where weights are NaN or infinite: every file that is read or written passes here."""
    from fusiondistill.state_dicts import check_finite

    try:
        check_finite(state_dict, source)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _parse_safetensors(data: bytes, source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        card = json.loads((header.get("__metadata__") or {}).get(NAME, "{}"))
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:  # KeyError: a dtype that torch lacks
        raise CheckpointError(f"{source} is no intact safetensors file: {error}") from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{source} carries a card that is none: {str(card)[:80]!r}")
    return tensors, card


def from_card(
    state_dict: Mapping[str, torch.Tensor], card: Mapping[str, Any], source: str = "checkpoint"
) -> ImageClassifier:
    """The classifier that a state dict and the card of one network describe, in eval mode.

    Args:
        source: where they come from, for messages.

    Raises:
        CheckpointError: no card; a network of a plugin that is not loaded, or of another digest; or weights that do not
            fit the network: the first tensors that differ are named.
    """
    from fusiondistill.models import ImageClassifier
    from fusiondistill.models.build import build
    from fusiondistill.state_dicts import state_difference

    check_card(card, source)
    check_plugin(card, source)
    if HOW in card:
        raise CheckpointError(several(source, card))
    try:
        model = build(card["model"], len(card["classes"]), card.get("feature_layer"), card.get("parameters") or {})
    except ValueError as error:
        raise CheckpointError(f"{source} carries a card that names no network: {error}") from error
    if difference := state_difference(model.state_dict(), state_dict):
        raise CheckpointError(f"{source} does not fit {card['model']}: {difference}")
    model.load_state_dict(dict(state_dict))
    return ImageClassifier(model, card["mean"], card["std"], card["classes"]).eval()


def several(source: str, card: Mapping[str, Any]) -> str:
    """What a file of several networks is, where one network is needed, in a sentence."""
    how = card[HOW]
    count = len(how["roles"])
    held = f"{count} networks" if count > 1 else "a network"
    return (
        f"{source} holds {held} with how {'they answer' if count > 1 else 'it answers'} ({how['name']}), and one "
        "network is needed: give the directory of that"
    )


def model_of(state_dict: Mapping[str, torch.Tensor], card: Mapping[str, Any], source: str) -> ImageClassifier | Whole:
    """What a state dict and its card describe, in eval mode: one network, or several and how they answer.

    Raises:
        CheckpointError: as :func:`from_card`; or how they answer is not known here.
    """
    check_card(card, source)
    if HOW not in card:
        return from_card(state_dict, card, source)
    from fusiondistill.packing import unpack

    return unpack(state_dict, card, source)


def load_model(
    path: str | Path,
    *,
    model: str | Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | int | None = None,
    size: int | tuple[int, int] | None = None,
    trained_on: ImageSet | None = None,
    any_size: bool = False,
) -> ImageClassifier | Whole:
    """A checkpoint as a ready classifier: uint8 [B,3,H,W] in, logits [B,C] out, in eval mode on the CPU.

    ``.predict(paths)`` classifies files; ``.classes`` are the class names. One network's
    ``.forward_features(images)`` returns (logits, feature map). A row that is stored with how its networks answer
    (``inference: router``) is one module, too, and has no feature map.

    Args:
        path: as for :func:`load_checkpoint`.
        model: of a file without a card: the network's name, or a mapping as ``model:`` of a config has it; a CIFAR
            ResNet, such as those of the paper's released code, need not be named.
        mean, std: of a file without a card: its normalisation per channel, on the scale 0..255 or 0..1.
        classes: of a file without a card: the names in the order of the outputs, or how many; default: "0", "1", ...,
            as many as its head has.
        size: of a file without a card: (height, width) of the images of its training.
        trained_on: for a file without a card: images with the classes and the normalisation that it was trained with,
            for all of these that are not given.
        any_size: take images of any size, not only of the training's; most networks are less accurate on other sizes.

    Raises:
        CheckpointError: as :func:`load_checkpoint` and :func:`from_card`; or what a file without a card needs is not
            given, or is given of a file with one.
        ValueError: no such network, or mean and std are on different scales.

    Example:
        >>> model = load_model("runs/quickstart/fusiondistill-0123456789abcdef")
        >>> logits = model(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        >>> theirs = load_model("resnet.pt", model="resnet18", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> released = load_model("model_best.pth", trained_on=load_images("cifar100", "test"))
    """
    from fusiondistill.data.preparation import Preparation
    from fusiondistill.uncarded import Told, with_card

    state_dict, card = load_checkpoint(path, as_written=True)
    given = {"model": model, "mean": mean, "std": std, "classes": classes, "size": size}
    if card and (names := [name for name, value in given.items() if value is not None]):
        raise CheckpointError(f"{path}: its card says so already: do not give {', '.join(names)}")
    if not card:
        told = Told(model, mean, std, classes, size)
        state_dict, card = with_card(state_dict, told.of(trained_on) if trained_on else told, str(path))
    classifier = model_of(state_dict, card, str(path))
    prepared = Preparation.of_card(card)
    classifier.preparation = replace(prepared, size=None) if any_size else prepared
    return classifier
