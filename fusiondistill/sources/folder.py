"""One's own images: `root/train/<class>/*.png`, `root/test/<class>/*.png`.

A file is an image by its suffix: PNG, JPEG, BMP, WebP, TIFF, GIF or PNM. Classes are the folders of `train` in
alphabetical order, images are in the order of their names. The test split may also be called `val`, `valid`,
`validation`, `dev` or `eval`. What is left out is counted and said; a class without an image is an error.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fusiondistill.data.decoding import SUFFIXES, read_bounded
from fusiondistill.data.errors import DataError
from fusiondistill.data.hub_names import stands_in
from fusiondistill.data.names import escaped, same_name
from fusiondistill.data.reading import Background, Bits, Broken, Reader
from fusiondistill.data.source import Located
from fusiondistill.sources import SOURCES, Contents, Files, Root, Row

__all__ = ["folder"]

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"),
}
LAYOUT = "a folder with train/<class>/*.png and test/<class>/*.png (or jpg, bmp, webp, tif, gif, ppm)"
EXPECTED = "expected root/train/<class>/*.png and root/test/<class>/*.png (or jpg, bmp, webp, tif, gif, ppm)"
SHOWN = 12
DEEPER = "folders inside a class"
SYSTEM = {"__MACOSX", "__pycache__", "@eaDir", "Thumbs.db", "desktop.ini"}
"""Written by operating systems; left out like hidden files."""


def _locate(root: Root) -> dict[str, Path]:
    if root is None or isinstance(root, list):
        raise DataError(f"`folder` needs one root: {LAYOUT}.")
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"{base}: there is no such folder; {EXPECTED}.")
    inside = {entry.name.lower(): Path(entry.path) for entry in _entries(base) if entry.is_dir()}
    splits, notes = {}, []
    for split, words in SPLIT_FOLDERS.items():
        there = [inside[word] for word in words if word in inside]
        if there:
            splits[split] = _Split(split, there[0])
            notes += splits[split].notes
            if (note := stands_in(there[0].name, split)) is not None:
                notes.append(f"{base}: {note}")
            notes += [f"{path}: is not used, since {there[0].name} is the {split} split" for path in there[1:]]
    files = {name: path for split in splits.values() for name, path in split.files.items()}
    if not splits:
        raise DataError(_no_split(base))
    if not files:
        raise DataError(f"{base}: holds no image; {EXPECTED}." + "".join(f" Found: {note}." for note in notes[:5]))
    if "train" in splits:
        splits["train"].check_none_empty()
        if "test" in splits:
            _check_known(splits["train"], splits["test"])
    return Located(dict(sorted(files.items())), notes)


def _no_split(base: Path) -> str:
    folders = [entry.name for entry in _entries(base) if entry.is_dir() and not _hidden(entry.name)]
    words = {word for words in SPLIT_FOLDERS.values() for word in words}
    deeper = [name for name in folders if any(entry.name.lower() in words for entry in _entries(base / name))]
    if deeper:
        remedy = f"Give {base / deeper[0]} as root, which has them."
    else:
        remedy = f"Sort the folders of the classes into these two; {EXPECTED}."
    held = ", ".join(folders[:SHOWN]) + (", ..." if len(folders) > SHOWN else "") or "no folder"
    return escaped(f"{base}: has no folder called train or test (it holds {held}). {remedy}")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error}).") from error


class _Split:
    """What one split's folder holds: images by their names in the source, classes, and what is left out."""

    def __init__(self, split: str, folder: Path) -> None:
        self.split, self.folder = split, folder
        self.files: dict[str, Path] = {}
        self.classes: dict[str, Counter[str]] = {}
        """Class -> kinds of what its folder holds; images are the kind ""."""
        beside = Counter[str]()
        for entry in _entries(folder):
            if _hidden(entry.name):
                beside["hidden"] += 1
            elif entry.is_dir():
                self.classes[entry.name] = self._read_class(entry)
            else:
                beside["beside the folders of the classes"] += 1
        self._left_out = sum(self.classes.values(), beside)

    def _read_class(self, folder: os.DirEntry[str]) -> Counter[str]:
        kinds = Counter[str]()
        for entry in _entries(Path(folder.path)):
            suffix = Path(entry.name).suffix.lower()
            if _hidden(entry.name):
                kinds["hidden"] += 1
            elif entry.is_dir():
                kinds[DEEPER] += 1
            elif not entry.is_file():
                kinds["links that lead nowhere"] += 1
            elif suffix in SUFFIXES:
                kinds[""] += 1
                self.files[f"{self.split}/{folder.name}/{entry.name}"] = Path(entry.path)
            else:
                kinds[suffix or "without a suffix"] += 1
        return kinds

    @property
    def notes(self) -> list[str]:
        """What is left out, counted, in a sentence."""
        kinds = {kind: count for kind, count in sorted(self._left_out.items()) if kind}
        if not kinds:
            return []
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        return [f"{self.folder}: {sum(kinds.values()):,} files or folders that are no images are left out ({told})"]

    def empty(self) -> list[str]:
        """The classes without an image."""
        return [name for name, kinds in self.classes.items() if not kinds[""]]

    def check_none_empty(self) -> None:
        """Raise DataError where a class has a folder and no image."""
        if not (empty := self.empty()):
            return
        kinds = {kind: count for kind, count in sorted(self.classes[empty[0]].items()) if kind}
        holds = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items()) or "nothing"
        read = " ".join(sorted(SUFFIXES))
        raise DataError(
            f"{self.folder / empty[0]}: holds no image for this class (it holds {holds}; read are {read})."
            + (f" So it is with {len(empty) - 1} more: {', '.join(empty[1:21])}." if len(empty) > 1 else "")
            + (" Move the images up into it." if kinds.get(DEEPER) else " Convert the files, or delete the folder.")
        )


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def _check_known(train: _Split, test: _Split) -> None:
    """Raise DataError where the test split has a class that cannot be learned."""
    known = {same_name(name): name for name in train.classes}
    if len({same_name(escaped(name)) for name in train.classes}) < len(train.classes):
        raise DataError(
            f"{train.folder}: the names of two folders are the same text in two encodings. Join or rename them."
        )
    filled = {same_name(name): name for name in test.classes if test.classes[name][""]}
    if unknown := [filled[key] for key in sorted(filled.keys() - known.keys())]:
        raise DataError(
            f"{test.folder}: has images of {len(unknown)} classes that have no folder under {train.folder}: "
            f"{', '.join(unknown[:20])}. The classes there are {', '.join(list(known)[:20])}. "
            "Rename the folders so that they agree, or delete those."
        )


@SOURCES.register("folder", locate=_locate, needs_root=LAYOUT, version=2)
def folder(
    files: Files, split: str, *, background: Background = "white", bits: Bits = None, broken: Broken = "error"
) -> Contents:
    """One's own images, a folder per class."""
    mine = [(name, path) for name, path in files.items() if name.startswith(f"{split}/")]
    if not mine:
        raise DataError(f"{next(iter(files.values())).parents[2]}: holds no image of the {split} split; {EXPECTED}.")
    named = {name.split("/")[1] for name in files if name.startswith("train/")} or {n.split("/")[1] for n, _ in mine}
    classes, notes = sorted(named), list[str]()
    label_of = {same_name(name): label for label, name in enumerate(classes)}

    def rows() -> Iterator[Row]:
        reader = Reader(background, bits, broken)
        for name, path in mine:
            row = reader.row(partial(read_bounded, path), label_of[same_name(name.split("/")[1])], str(path))
            if row is not None:
                yield row
        reader.finish(f"{mine[0][1].parents[1]}")
        notes.extend(reader.notes(split))

    return Contents(classes, rows(), notes)
