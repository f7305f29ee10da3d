"""One's own images: `root/train/<class>/*.png`, `root/test/<class>/*.png` (PNG, JPEG, BMP or WebP).

The test split may also be called `val`, `valid` or `validation`. Classes are the folders of `train` in alphabetical
order, images are in the order of their names; hidden files and other file types are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fusiondistill.data.decoding import decode_image, read_bounded
from fusiondistill.data.errors import DataError
from fusiondistill.sources import SOURCES, Contents, Files, Root, Row

__all__ = ["folder"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
LAYOUT = "a folder with train/<class>/*.png and test/<class>/*.png (or jpg, bmp, webp)"
EXPECTED = "expected root/train/<class>/*.png and root/test/<class>/*.png (or jpg, bmp, webp)"


def _locate(root: Root) -> dict[str, Path]:
    if root is None or isinstance(root, list):
        raise DataError(f"`folder` needs one root: {LAYOUT}.")
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"{base}: there is no such folder; {EXPECTED}.")
    files: dict[str, Path] = {}
    for split, words in SPLIT_FOLDERS.items():
        found = next((base / word for word in words if (base / word).is_dir()), None)
        for path in found.glob("*/*") if found else ():
            hidden = path.name.startswith(".") or path.parent.name.startswith(".")
            if path.suffix.lower() in SUFFIXES and not hidden:
                files[f"{split}/{path.parent.name}/{path.name}"] = path
    if not files:
        raise DataError(f"{base}: holds no image; {EXPECTED}.")
    return dict(sorted(files.items()))


def _classes(files: Files, split: str) -> list[str]:
    return sorted({name.split("/")[1] for name in files if name.startswith(f"{split}/")})


@SOURCES.register("folder", locate=_locate, needs_root=LAYOUT)
def folder(files: Files, split: str) -> Contents:
    """One's own images, a folder per class."""
    mine = [(name, path) for name, path in files.items() if name.startswith(f"{split}/")]
    if not mine:
        raise DataError(f"{next(iter(files.values())).parents[2]}: holds no image of the {split} split; {EXPECTED}.")
    classes = _classes(files, "train") or _classes(files, split)
    label_of = {name: label for label, name in enumerate(classes)}
    return Contents(classes, _rows(mine, label_of))


def _rows(mine: list[tuple[str, Path]], label_of: dict[str, int]) -> Iterator[Row]:
    for name, path in mine:
        label = label_of.get(name.split("/")[1])
        if label is None:
            raise DataError(
                f"{path}: its class {path.parent.name!r} has no folder under train. The classes are "
                f"{', '.join(list(label_of)[:20])}."
            )
        yield Row(decode_image(read_bounded(path), str(path)), label, str(path))
