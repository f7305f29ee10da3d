"""Tiny ImageNet in its official layout, as a folder or as the zip that it comes in.

`wnids.txt` gives the classes and their order, `words.txt` their names, `train/<wnid>/images/*.JPEG` the images to
train on, `val/val_annotations.txt` and `val/images` the official validation images. Those are the split called "test"
here, since the official test images have no labels. Grey images become RGB. The zip is read without being unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fusiondistill.counting import counted
from fusiondistill.data.archive import open_zip
from fusiondistill.data.decoding import decode_image, read_bounded
from fusiondistill.data.errors import DataError
from fusiondistill.sources import SOURCES, Contents, Files, Root, Row

__all__ = ["tiny_imagenet"]

FOLDER = "tiny-imagenet-200"
ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
NEEDS_ROOT = f"the official zip ({ADDRESS}) or the folder unpacked from it"
ANNOTATIONS = "val/val_annotations.txt"


def _locate(root: Root) -> dict[str, Path]:
    if root is None or isinstance(root, list):
        raise DataError(f"`tiny_imagenet` needs one root: {NEEDS_ROOT}.")
    base = Path(root).expanduser()
    if not base.exists():
        raise DataError(f"{base}: there is no such file or folder; wanted is {NEEDS_ROOT}.")
    for path in (base, base / f"{FOLDER}.zip"):
        if path.is_file():
            return {"tiny-imagenet.zip": path}
    for folder in (base, base / FOLDER):
        if (folder / "wnids.txt").is_file():
            listed = [
                folder / "wnids.txt",
                folder / "words.txt",
                folder / ANNOTATIONS,
                *folder.glob("train/*/images/*"),
                *folder.glob("val/images/*"),
            ]
            return {path.relative_to(folder).as_posix(): path for path in listed if path.is_file()}
    raise DataError(f"{base}: holds neither {FOLDER}.zip nor a wnids.txt. Fetch {ADDRESS} and give it as root.")


class _Tree:
    """The official layout, wherever it lies: relative names, a way to read one, a way to speak of it."""

    def __init__(self, names: list[str], read: Callable[[str], bytes], where: Callable[[str], str]) -> None:
        self.names, self._known, self._read, self.where = sorted(names), set(names), read, where

    def read(self, name: str) -> bytes:
        if name not in self._known:
            raise DataError(f"{self.where(name)}: is missing. Fetch {ADDRESS} again.")
        return self._read(name)

    def lines(self, name: str) -> list[list[str]]:
        """The lines of a text file, cut at tabs; empty ones left out."""
        try:
            text = self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where(name)}: is no text ({error}). Fetch {ADDRESS} again.") from error
        return [line.split("\t") for line in text.splitlines() if line.strip()]


@contextmanager
def _tree(files: Files) -> Iterator[_Tree]:
    if list(files) != ["tiny-imagenet.zip"]:
        yield _Tree(list(files), lambda name: read_bounded(files[name]), lambda name: _path(files, name))
        return
    path = files["tiny-imagenet.zip"]
    with open_zip(path) as archive:
        tops = [name.removesuffix("wnids.txt") for name in archive.names if PurePosixPath(name).name == "wnids.txt"]
        if len(tops) != 1:
            several = counted(len(tops), "file")
            raise DataError(f"{path}: holds {several} called wnids.txt, expected one. Fetch {ADDRESS} again.")
        names = [name.removeprefix(tops[0]) for name in archive.names if name.startswith(tops[0])]
        yield _Tree(names, lambda name: archive.read(tops[0] + name), lambda name: f"{path}, member {tops[0]}{name}")


def _path(files: Files, name: str) -> str:
    return str(files.get(name, files["wnids.txt"].parent / name))


@SOURCES.register(
    "tiny_imagenet",
    locate=_locate,
    needs_root=NEEDS_ROOT,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
)
def tiny_imagenet(files: Files, split: str) -> Contents:
    """Tiny ImageNet in its official layout."""
    with _tree(files) as tree:
        wnids = [line[0].strip() for line in tree.lines("wnids.txt")]
        words = {line[0]: line[1] for line in tree.lines("words.txt") if len(line) > 1}
    if not wnids or len(set(wnids)) < len(wnids):
        raise DataError(f"{tree.where('wnids.txt')}: names no class, or one twice. Fetch {ADDRESS} again.")
    listing = _training if split == "train" else _validation
    return Contents([words.get(wnid, wnid) for wnid in wnids], _rows(files, listing, wnids))


def _rows(
    files: Files, listing: Callable[[_Tree, list[str]], Iterator[tuple[str, int]]], wnids: list[str]
) -> Iterator[Row]:
    with _tree(files) as tree:
        for name, label in listing(tree, wnids):
            where = tree.where(name)
            yield Row(decode_image(tree.read(name), where), label, where)


def _training(tree: _Tree, wnids: list[str]) -> Iterator[tuple[str, int]]:
    """Image name and label, class after class in the order of wnids.txt, by name within a class."""
    images: dict[str, list[str]] = {wnid: [] for wnid in wnids}
    for name in tree.names:
        top, *rest = name.split("/")
        if top == "train" and len(rest) == 3 and rest[1] == "images":
            if rest[0] not in images:
                raise DataError(f"{tree.where(name)}: the class {rest[0]} is not in wnids.txt. Fetch {ADDRESS} again.")
            images[rest[0]].append(name)
    for label, wnid in enumerate(wnids):
        if not images[wnid]:
            raise DataError(f"{tree.where(f'train/{wnid}/images')}: holds no image. Fetch {ADDRESS} again.")
        for name in images[wnid]:
            yield name, label


def _validation(tree: _Tree, wnids: list[str]) -> Iterator[tuple[str, int]]:
    """Image name and label, in the order of val_annotations.txt."""
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    for number, fields in enumerate(tree.lines(ANNOTATIONS), start=1):
        if len(fields) < 2 or fields[1] not in label_of or "/" in fields[0]:
            raise DataError(
                f"{tree.where(ANNOTATIONS)}, line {number}: expected an image's name, a tab and a class of "
                f"wnids.txt, found {' '.join(fields)[:80]!r}."
            )
        yield f"val/images/{fields[0]}", label_of[fields[1]]
