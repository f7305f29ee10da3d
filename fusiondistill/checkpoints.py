"""Files that are committed, not written: safetensors and a JSON manifest with digests, verified on load.

Every file carries the attempt that wrote it; the manifest, written last by temporary file and rename, names them. Two
writers, a crash or a full disk can leave litter, never a mixture. All paths go through :mod:`pyarrow.fs`, so that a
directory and a bucket are one mechanism.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill.locations import open_location, read_whole, write_file

if TYPE_CHECKING:
    import torch
    from pyarrow.fs import FileSystem

    from fusiondistill.models import ImageClassifier

__all__ = [
    "MANIFEST",
    "CheckpointError",
    "card_of",
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
    "write_file",
]

MANIFEST = "manifest.json"
MODEL = "model.safetensors"


class CheckpointError(ValueError):
    """A stored file is missing, damaged or does not fit; the message names it."""


def new_attempt() -> str:
    """A name for one try at writing: eight random hex digits."""
    return secrets.token_hex(4)


def digest(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def commit(
    filesystem: FileSystem, directory: str, files: Mapping[str, bytes], manifest: Mapping[str, Any], attempt: str
) -> dict[str, Any]:
    """Write files under the attempt's name, then the manifest that names them.

    Args:
        files: logical name (``model.safetensors``) -> content; stored as ``model.<attempt>.safetensors``.
        manifest: JSON-able; gets the keys ``attempt`` and ``files``.

    Returns:
        The manifest as written.
    """
    entries = {}
    for name, data in files.items():
        stem, dot, suffix = name.rpartition(".")
        stored = f"{stem}.{attempt}{dot}{suffix}" if dot else f"{name}.{attempt}"
        write_file(filesystem, f"{directory}/{stored}", data)
        entries[name] = {"file": stored, "sha256": digest(data), "bytes": len(data)}
    complete = {**manifest, "attempt": attempt, "files": entries}
    sealed = {**complete, "seal": digest(_canonical(complete))}
    write_file(filesystem, f"{directory}/{MANIFEST}", json.dumps(sealed, indent=1, sort_keys=True).encode())
    return complete


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def read_manifest(filesystem: FileSystem, directory: str) -> dict[str, Any] | None:
    """The manifest of a directory, its own digest checked; None if there is none.

    Raises:
        CheckpointError: it is cut short or changed.
    """
    path = f"{directory}/{MANIFEST}"
    data = read_whole(filesystem, path)
    if data is None:
        return None
    try:
        manifest: dict[str, Any] = json.loads(data)
        intact = manifest.pop("seal") == digest(_canonical(manifest))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not intact:
        raise CheckpointError(f"{path} is damaged: its content does not match its digest")
    return manifest


def read_file(filesystem: FileSystem, directory: str, manifest: Mapping[str, Any], name: str) -> bytes:
    """A committed file, verified.

    Raises:
        CheckpointError: not in the manifest, missing, or its digest differs.
    """
    entry = manifest["files"].get(name)
    if entry is None:
        raise CheckpointError(f"{directory}/{MANIFEST} names no {name}")
    path = f"{directory}/{entry['file']}"
    data = read_whole(filesystem, path)
    if data is None:
        raise CheckpointError(f"{path} is missing although the manifest names it")
    if len(data) != entry["bytes"] or digest(data) != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: {len(data)} bytes that do not match the manifest's digest")
    return data


def check_size(directory: str, entry: Mapping[str, Any], size: int | None) -> None:
    """Compare the size of a committed file with its entry in the manifest; None: there is no such file.

    Raises:
        CheckpointError: missing, or cut short.
    """
    path = f"{directory}/{entry['file']}"
    if size is None:
        raise CheckpointError(f"{path} is missing although the manifest names it")
    if size != entry["bytes"]:
        raise CheckpointError(f"{path} is damaged: {size} bytes, the manifest says {entry['bytes']}")


def card_of(
    model_name: str,
    feature_layer: str | None,
    *,
    classes: list[str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: tuple[int, int],
    dataset: str,
) -> dict[str, Any]:
    """All that is needed to run a checkpoint: network, classes, normalisation (0..255 scale), input (height, width)."""
    return {
        "model": model_name,
        "feature_layer": feature_layer,
        "classes": list(classes),
        "mean": list(mean),
        "std": list(std),
        "size": list(size),
        "dataset": dataset,
    }


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
        card = json.loads(header.get("__metadata__", {}).get("fusiondistill", "{}"))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{source} is no intact safetensors file: {error}") from error
    return tensors, card


def _parse_torch(data: bytes, source: str) -> dict[str, torch.Tensor]:
    import io

    import torch

    try:
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
        CheckpointError: no card, or weights that do not fit the network: the first tensors that differ are named.
    """
    from fusiondistill.fusion import state_difference
    from fusiondistill.models import ImageClassifier, build_model

    if not card:
        raise CheckpointError(f"{source} carries no card: it does not say which network it belongs to")
    model = build_model(card["model"], len(card["classes"]), feature_layer=card.get("feature_layer"))
    if difference := state_difference(model.state_dict(), state_dict):
        raise CheckpointError(f"{source} does not fit {card['model']}: {difference}")
    model.load_state_dict(dict(state_dict))
    return ImageClassifier(model, card["mean"], card["std"], card["classes"]).eval()


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
