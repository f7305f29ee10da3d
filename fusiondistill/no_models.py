"""Says what a path is that holds no model: missing, a folder, an evaluation, another file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill.commits import MANIFEST

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["no_network", "no_path", "no_weights"]

_WANTED = "Give a store, the directory of a stage that made a network, or a file of weights"
_KINDS = {"evaluate": "an evaluation", "validate": "a validation", "search": "a search"}
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""How image files begin."""


def no_path(filesystem: FileSystem, place: str, path: str | Path) -> str:
    """Why a path leads to no model: nothing is there, or a folder without a network."""
    from pyarrow import fs

    if filesystem.get_file_info(place).type != fs.FileType.Directory:
        return f"{path}: no such checkpoint: there is no such file or folder. {_WANTED}"
    held = {info.base_name for info in filesystem.get_file_info(fs.FileSelector(place))}
    if "plans" in held:
        return f"{path} is a store without a best network (no best/): give the directory of one of its stages"
    return f"{path} {f'holds no {MANIFEST} and no model.safetensors' if held else 'is an empty folder'}. {_WANTED}"


def no_network(manifest: Mapping[str, Any], path: str | Path) -> str:
    """What a stage without weights is, by its manifest, and which networks it used."""
    kind = _KINDS.get(str(manifest.get("kind")), f"a stage of the kind {manifest.get('kind')}")
    used = sorted(set(map(str, (manifest.get("inputs") or {}).values())))
    several = "; several networks answer together there, which are not one" if len(used) > 1 else ""
    return f"{path} is {kind}, which holds no network{several}; it judged: {', '.join(used) or 'nothing'}"


def no_weights(data: bytes, source: str) -> str:
    """What a file without weights is, by its name and its first bytes."""
    suffix = Path(source).suffix.lower()
    if suffix == ".onnx":
        return (
            f"{source} is an ONNX file, a program with weights in it: run it with onnxruntime, or give the store or "
            "the folder that it was exported from"
        )
    from fusiondistill.data.decoding import SUFFIXES

    if data.startswith(_IMAGES) or suffix in SUFFIXES:
        said = "is an image. The model stands first, then the images (predict MODEL PATH...)"
    elif suffix in (".yaml", ".yml"):
        said = "is a YAML file. A config is no model: run it, and give its store"
    elif data:
        said = f"is {'a text' if _is_text(data[:1024]) else 'another'} file. {_WANTED}"
    else:
        said = f"is empty. {_WANTED}"
    what, _, todo = said.partition(". ")
    return f"{source} {what}, neither a file of torch.save nor of safetensors. {todo}"


def _is_text(start: bytes) -> bool:
    return b"\0" not in start and "\ufffd" not in start[:-3].decode(errors="replace")
