"""Checkpoints: weights as safetensors with the card that makes them usable, committed beside a manifest or alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import torch
    from pyarrow.fs import FileSystem

    from fusiondistill.models import ImageClassifier
    from fusiondistill.registry import Plugin

__all__ = [
    "MANIFEST",
    "MODEL",
    "CheckpointError",
    "card_of",
    "check_card",
    "check_plugin",
    "check_size",
    "checkpoint_digest",
    "commit",
    "digest",
    "from_card",
    "load_checkpoint",
    "load_model",
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
MOST_CLASSES = 100_000
"""That a card may name: a head for a billion would fill any memory before its weights are found missing."""


def card_of(
    model_name: str,
    feature_layer: str | None,
    *,
    classes: list[str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: tuple[int, int],
    dataset: str,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that is needed to run a checkpoint: network, classes, normalisation (0..255 scale), input (height, width).

    Of a network that has parameters they are in it, too; of one that a plugin registered the plugin's file and digest.
    """
    card: dict[str, Any] = {
        "model": model_name,
        "feature_layer": feature_layer,
        "classes": list(classes),
        "mean": list(mean),
        "std": list(std),
        "size": list(size),
        "dataset": dataset,
    }
    if parameters:
        card["parameters"] = dict(parameters)
    if plugin := _plugin_of(model_name):
        card["plugin"] = {"file": plugin.file, "sha256": plugin.sha256}
    return card


def _plugin_of(model_name: str) -> Plugin | None:
    """The user's file that registered a network; None for a built-in one, and where there is none of that name."""
    from fusiondistill.networks import NETWORKS

    return NETWORKS.provider(model_name).plugin if NETWORKS.check_name(model_name) is None else None


def to_safetensors(state_dict: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> bytes:
    """Weights and their card as the bytes of one safetensors file."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    data: bytes = save(tensors, metadata={"fusiondistill": json.dumps(card, sort_keys=True)})
    return data


def save_checkpoint(path: str | Path, state_dict: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Save weights and the card that makes them usable (:func:`card_of`).

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


def load_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Load weights and their card.

    Args:
        path: a directory with a manifest (a stage of a store, or what :func:`save_checkpoint` wrote), a
            ``.safetensors`` file, or a ``.pt``/``.pth`` state dict, which is read with ``weights_only=True``; may be
            a URI.

    Returns:
        The state dict on the CPU, and the card: empty for files that carry none.

    Raises:
        CheckpointError: missing, damaged, or not a checkpoint.
    """
    filesystem, place, manifest = _find(path)
    if manifest is not None:
        return parse_weights(read_file(filesystem, place, manifest, MODEL), f"{place}/{MODEL}")
    return parse_weights(_read_single(filesystem, place, path), place if "://" in str(path) else str(path))


def _find(path: str | Path) -> tuple[FileSystem, str, dict[str, Any] | None]:
    """Where a checkpoint is; the manifest if that is a directory with one."""
    filesystem, place = open_location(path)
    place = place.removesuffix("/" + MANIFEST)
    manifest = None if place.endswith((".safetensors", ".pt", ".pth")) else read_manifest(filesystem, place)
    return filesystem, place, manifest


def _read_single(filesystem: FileSystem, place: str, path: str | Path) -> bytes:
    try:
        data = read_whole(filesystem, place)
    except OSError as error:
        raise CheckpointError(f"{path} holds no {MANIFEST} and is no checkpoint file") from error
    if data is None:
        raise CheckpointError(f"{path}: no such checkpoint")
    return data


def checkpoint_digest(path: str | Path) -> str:
    """sha256 of the file with the weights of a checkpoint, which may be whatever :func:`load_checkpoint` takes.

    Raises:
        CheckpointError: missing, or its manifest is damaged.
    """
    filesystem, place, manifest = _find(path)
    if manifest is None:
        return digest(_read_single(filesystem, place, path))
    if MODEL not in manifest["files"]:
        raise CheckpointError(f"{place}/{MANIFEST} names no {MODEL}")
    return str(manifest["files"][MODEL]["sha256"])


def parse_weights(data: bytes, source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the card in the bytes of a safetensors or torch file; nothing is unpickled freely."""
    if source.endswith((".pt", ".pth")):
        return _parse_torch(data, source), {}
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        card = json.loads((header.get("__metadata__") or {}).get("fusiondistill", "{}"))
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:  # KeyError: of a type that torch lacks
        raise CheckpointError(f"{source} is no intact safetensors file: {error}") from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{source} carries a card that is none: {str(card)[:80]!r}")
    return tensors, card


def _parse_torch(data: bytes, source: str) -> dict[str, torch.Tensor]:
    import io
    import zipfile

    import torch

    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                # torch.save compresses nothing; what is compressed may hold a thousand times its size
                if sum(info.file_size for info in archive.infolist()) > len(data):
                    raise ValueError("its parts claim to be larger than the file")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes end in anything: IndexError, struct.error, AssertionError, ...
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{source} cannot be read as plain weights: {reason}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise CheckpointError(f"{source} holds no state dict: expected names with tensors")
    return {str(name): tensor for name, tensor in content.items()}


def from_card(
    state_dict: Mapping[str, torch.Tensor], card: Mapping[str, Any], source: str = "checkpoint"
) -> ImageClassifier:
    """The classifier that a state dict and its card describe, in eval mode.

    Raises:
        CheckpointError: no card; a network of a plugin that is not loaded, or of another digest; or weights that do not
            fit the network: the first tensors that differ are named.
    """
    from fusiondistill.models import ImageClassifier
    from fusiondistill.models.build import build
    from fusiondistill.state_dicts import state_difference

    check_card(card, source)
    check_plugin(card, source)
    try:
        model = build(card["model"], len(card["classes"]), card.get("feature_layer"), card.get("parameters") or {})
    except ValueError as error:
        raise CheckpointError(f"{source} carries a card that names no network: {error}") from error
    if difference := state_difference(model.state_dict(), state_dict):
        raise CheckpointError(f"{source} does not fit {card['model']}: {difference}")
    model.load_state_dict(dict(state_dict))
    return ImageClassifier(model, card["mean"], card["std"], card["classes"]).eval()


def check_plugin(card: Mapping[str, Any], source: str) -> None:
    """See that the plugin which a card names is loaded. A stored copy of it is never run by itself.

    Raises:
        CheckpointError: it is not, or it is another file of that name; says which, and what to do.
    """
    if "plugin" not in card:
        return
    file, sha256, loaded = card["plugin"]["file"], card["plugin"]["sha256"], _plugin_of(card["model"])
    wanted = f"{source} holds a network {card['model']!r} of the plugin {file} (sha256 {sha256})"
    if loaded is None:
        raise CheckpointError(f"{wanted}: give that file with --plugin FILE, or in Python to load_plugins")
    if loaded.sha256 != sha256:
        raise CheckpointError(
            f"{wanted}, and the plugin that is loaded, {loaded.path}, is another (sha256 {loaded.sha256}): give the "
            "file that the network was trained with"
        )


def check_card(card: Mapping[str, Any], source: str) -> None:
    """See whether a card, which may be a stranger's, says what :func:`card_of` says.

    Raises:
        CheckpointError: it does not; names the first part that is wrong.
    """
    if not card:
        raise CheckpointError(f"{source} carries no card: it does not say which network it belongs to")

    def list_of(name: str, kind: Any, length: int | None = None) -> bool:
        value = card.get(name)
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            return False
        return all(type(one) in kind for one in value)

    def numbers(name: str, least: float) -> bool:
        return list_of(name, (int, float), 3) and all(least < one < 1e9 for one in card[name])  # and none is NaN

    wrong = [name for name, least in (("mean", -1e9), ("std", 0.0)) if not numbers(name, least)]
    wrong += [] if list_of("classes", (str,)) and 0 < len(card["classes"]) <= MOST_CLASSES else ["classes"]
    wrong += [] if isinstance(card.get("model"), str) else ["model"]
    wrong += [] if isinstance(card.get("feature_layer"), str | None) else ["feature_layer"]
    wrong += [] if isinstance(card.get("parameters", {}), dict) else ["parameters"]
    plugin = card.get("plugin", {"file": "", "sha256": ""})
    told = isinstance(plugin, dict) and all(isinstance(plugin.get(key), str) for key in ("file", "sha256"))
    wrong += [] if told else ["plugin"]
    if wrong:
        raise CheckpointError(f"{source} carries a card whose {wrong[0]} is missing or not what it should be")


def load_model(path: str | Path) -> ImageClassifier:
    """A checkpoint as a ready classifier: uint8 [B,3,H,W] in, logits [B,C] out, in eval mode on the CPU.

    ``.forward_features(images)`` returns (logits, feature map); ``.classes`` are the class names.

    Args:
        path: as for :func:`load_checkpoint`; the checkpoint must carry its card.

    Example:
        >>> model = load_model("runs/quickstart/fusiondistill-0123456789abcdef")
        >>> logits = model(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    """
    state_dict, card = load_checkpoint(path)
    return from_card(state_dict, card, str(path))
