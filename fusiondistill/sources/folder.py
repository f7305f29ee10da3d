"""Your own images: `root/train/<class>/*.png`, `root/test/<class>/*.png`; or `root/<class>/*.png`.

A file is an image by its suffix: PNG, JPEG, BMP, WebP, TIFF, GIF, PNM, AVIF or JPEG 2000. Classes are the folders of
`train` in alphabetical order, images are in the order of their names. Splits are found by their names in any case:
`train` or `training`, `test` or `testing`, and `val`, `valid`, `validation`, `dev`, `eval` or `evaluation`; or by one
of these words in a name (`images_train`, `test-set`), of a folder that holds folders of images. The last is the
validation split beside a test split, and stands in for it where there is none. A set without a test split needs
`data.test`, which cuts one off (then a `val` is the validation split). A set without any split is its classes' folders
themselves. Splits may also stand below the classes, as in `root/<class>/train/*.png`. Where the root holds one folder
that holds all this, that folder is read. What is left out is counted and said; a class without an image is an error.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from fusiondistill.counting import counted
from fusiondistill.data.arrangement import CUT, cut_advice
from fusiondistill.data.decoding import SUFFIXES, read_bounded
from fusiondistill.data.errors import DataError
from fusiondistill.data.finding import entries, hidden
from fusiondistill.data.hub_names import SPLIT_WORDS, stands_in
from fusiondistill.data.names import escaped, same_name
from fusiondistill.data.reading import Background, Bits, Broken, Reader
from fusiondistill.data.source import Located
from fusiondistill.sources import SOURCES, Contents, Files, Root, Row

__all__ = ["folder"]

_WORDS = {word for words in SPLIT_WORDS.values() for word in words}
LAYOUT = (
    "a folder with train/<class>/*.png and test/<class>/*.png (or jpg, bmp, webp, tif, gif, ppm), perhaps "
    "val/<class>/*.png; or, with data.test, with <class>/*.png"
)
EXPECTED = "expected root/train/<class>/*.png and root/test/<class>/*.png (or jpg, bmp, webp, tif, gif, ppm)"
SHOWN = 12
MOST_DEEP = 3
DEEPER, IN_THESE, NOWHERE = "folders inside a class", "images in these", "links that lead nowhere"
_SEVERAL = {
    DEEPER: ("folder inside a class", DEEPER),
    IN_THESE: ("image in these", IN_THESE),
    NOWHERE: ("link that leads nowhere", NOWHERE),
}
"""Kinds of what is left out -> one of them, several."""


def _locate(root: Root, cut: bool = False) -> dict[str, Path]:
    if root is None or isinstance(root, list):
        raise DataError(f"`folder` needs one root: {LAYOUT}.")
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"{base}: {'is a file' if base.exists() else 'there is no such folder'}; {EXPECTED}.")
    base, notes = _descended(base)
    splits = _splits(base, cut, notes) or _turned(base, cut, notes)
    if not splits and cut and not _WORDS.issuperset(map(str.lower, (whole := _Split("train", base)).filled())):
        splits = {"train": whole}
    if not splits:
        raise DataError(_no_split(base) if any(base.iterdir()) else f"{base}: is an empty folder; {EXPECTED}.")
    files = {name: path for split in splits.values() for name, path in split.files.items()}
    notes += [note for split in splits.values() for note in split.notes]
    if not files:
        raise DataError(f"{base}: holds no image; {EXPECTED}." + "".join(f" Found: {note}." for note in notes[:5]))
    if train := splits.get("train"):
        train.check_none_empty()
        for other in splits.values():
            _check_known(train, other)
    return Located(dict(sorted(files.items())), notes)


def _splits(base: Path, cut: bool, notes: list[str]) -> dict[str, _Split]:
    """The folders that are splits, by the splits that they are; notes say what stands in and what is not used."""
    found: dict[str, _Split] = {}
    unused: list[tuple[Path, str]] = []
    inside = _folders(base)
    for split, words in SPLIT_WORDS.items():
        for path in [one for one in inside if one.name.lower() in words] or _called(inside, split):
            if split in found:
                unused.append((path, f"{found[split].folder.name} is the {split} split"))
                continue
            there = _Split(split, _within(path))
            if there.files or (split == "train" and there.classes):
                found[split] = there
                notes += [f"{path}: is read as the {split} split"] if path.name.lower() not in words else []
            else:
                unused.append((path, "it has no folder of a class that holds images"))
    if "test" not in found and "validation" in found and not cut:
        found["test"] = _Split("test", found.pop("validation").folder)
        if (note := stands_in(found["test"].folder.name, "test")) is not None:
            notes.append(f"{base}: {note}")
    if found or not cut:
        notes += [f"{path}: is not used, since {why}" for path, why in unused]
    return found


def _turned(base: Path, cut: bool, notes: list[str]) -> dict[str, _Split]:
    """The splits of a folder whose classes hold them: ``<class>/train/*.png``; none where a class has no ``train``."""
    inside = [{one.name.lower() for one in _folders(path)} for path in _folders(base)]
    if len(inside) < 2 or not all(names.intersection(SPLIT_WORDS["train"]) for names in inside):
        return {}
    found = {split: _Split(split, base, words) for split, words in SPLIT_WORDS.items()}
    found = {split: one for split, one in found.items() if one.files or split == "train"}
    if "test" not in found and "validation" in found and not cut:
        found["test"] = _Split("test", base, SPLIT_WORDS[found.pop("validation").split])
        notes.append(f"{base}: there is no test split; validation is used as the test split")
    notes.append(f"{base}: the splits are read below the classes, as <class>/train")
    return found


def _descended(base: Path) -> tuple[Path, list[str]]:
    """The folder that has the splits or the classes: the root, or one that it alone holds; with a note."""
    given = base
    for _ in range(MOST_DEEP):
        folders = [Path(entry.path) for entry in entries(base) if entry.is_dir() and not hidden(entry.name)]
        if _has_split(folders):
            break
        with_splits = [path for path in folders if _has_split(_folders(path))]
        if len(with_splits) == 1:
            base = with_splits[0]
        elif len(folders) == 1 and _folders(folders[0]) and not _Split("train", base).files:
            base = folders[0]
        else:
            break
    return base, [f"{given}: the data set is taken from {base.relative_to(given)} in it"] if base != given else []


def _has_split(folders: list[Path]) -> bool:
    whole = any(path.name.lower() in SPLIT_WORDS["train"] and _folders(path) for path in folders)
    return whole or bool(_called(folders, "train"))


def _called(folders: list[Path], split: str) -> list[Path]:
    """The folders with one of a split's words in their names, and none of another's, that hold folders of images."""

    def means(path: Path) -> list[str]:
        said = set(re.split(r"[^a-z]+", re.sub(r"(sets?|data)$", "", path.name.lower())))
        return [one for one, words in SPLIT_WORDS.items() if said.intersection(words)]

    return [path for path in folders if means(path) == [split] and _Split(split, _within(path)).files]


def _folders(base: Path) -> list[Path]:
    return [Path(entry.path) for entry in entries(base) if entry.is_dir() and not hidden(entry.name)]


def _within(split: Path) -> Path:
    """A split's folder, or the folder that it alone holds, as archives unpack: train/train/<class>."""
    inside = _folders(split)
    return inside[0] if len(inside) == 1 and _folders(inside[0]) and not _Split("", split).files else split


def _no_split(base: Path) -> str:
    """What to say where no folder is a split: what was found, and what to write."""
    classes, found = _Split("train", base), list[str]()
    counts = classes.filled()
    files = [entry.name for entry in entries(base) if entry.is_file()]
    flat = sum(Path(name).suffix.lower() in SUFFIXES for name in files)
    if len(counts) > 1 and not _WORDS.issuperset(map(str.lower, counts)):
        told = f"{counted(len(counts), 'folder')} with {counted(sum(counts.values()), 'image')}: "
        found = [f"{name} ({n:,})" for name, n in counts.items()]
        remedy = f"If these are the classes, {CUT}."
    else:
        told, found = "", [f"{name} ({_told(kinds) or 'nothing'})" for name, kinds in classes.classes.items()]
        found += [f"{counted(flat, 'image')} without a folder of a class"] if flat else []
        found += [name for name in files if name.lower().endswith((".csv", ".tsv"))][:3]
        deep = [name for name, kinds in classes.classes.items() if kinds[IN_THESE]]
        which = str(base / deep[0]) if len(deep) == 1 else "the folder that holds those of the classes"
        remedy = f"Give {which}, or sort them into these two; {EXPECTED}."
        if len(found) > len(classes.classes) or counts:
            remedy = (
                "Where a table names the class of each image, write data: {name: table, images: DIR, labels: FILE}."
            )
        elif (held := sum(classes.classes.values(), Counter())).total() and not held[DEEPER]:
            remedy = f"Read are {' '.join(sorted(SUFFIXES))}: convert the files."
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    told += ", ".join(found[:SHOWN]) + more or "no folder"
    return escaped(
        f"{base}: has no folder called train or test with a folder for each class (it holds {told}). {remedy}"
    )


def _told(kinds: Counter[str]) -> str:
    """What a folder holds, counted; the images last."""
    named = [(count, _SEVERAL.get(kind, (kind, kind))) for kind, count in sorted(kinds.items()) if kind and count]
    told = [counted(count, *kind) for count, kind in named]
    return ", ".join(told + [counted(kinds[""], "image")] * bool(kinds[""]))


class _Split:
    """What one split's folder holds: images by their names in the source, classes, and what is left out."""

    def __init__(self, split: str, folder: Path, below: Collection[str] = ()) -> None:
        """Read it. Where the splits stand below the classes, ``below`` is what this one may be called there."""
        self.split, self.folder = split, folder
        self.files: dict[str, Path] = {}
        self.classes: dict[str, Counter[str]] = {}
        """Class -> kinds of what its folder holds; images are the kind ""."""
        beside = Counter[str]()
        for entry in entries(folder):
            if hidden(entry.name):
                beside["hidden"] += 1
            elif entry.is_dir():
                places, others = self._below(Path(entry.path), below) if below else ([Path(entry.path)], 0)
                self.classes[entry.name] = sum((self._read_class(entry.name, one) for one in places), Counter())
                beside["beside the folders of the splits"] += others
            elif not below or split == "train":  # that says it once
                beside["beside the folders of the classes"] += 1
        self._left_out = sum(self.classes.values(), beside)

    def _below(self, folder: Path, names: Collection[str]) -> tuple[list[Path], int]:
        """The folder that is this split's in that of a class; how much there is no split's, which `train` counts."""
        own = [path for path in _folders(folder) if path.name.lower() in names]
        splits = sum(path.name.lower() in _WORDS for path in _folders(folder))
        there = sum(not hidden(entry.name) for entry in entries(folder))
        return own[:1], len(own[1:]) + (there - splits if self.split == "train" else 0)

    def _read_class(self, name: str, folder: Path) -> Counter[str]:
        kinds = Counter[str]()
        for entry in entries(folder):
            suffix = Path(entry.name).suffix.lower()
            if hidden(entry.name):
                kinds["hidden"] += 1
            elif entry.is_dir():
                kinds[DEEPER] += 1
                kinds[IN_THESE] += sum(Path(one.name).suffix.lower() in SUFFIXES for one in entries(Path(entry.path)))
            elif not entry.is_file():
                kinds[NOWHERE] += 1
            elif suffix in SUFFIXES:
                kinds[""] += 1
                self.files[f"{self.split}/{name}/{entry.name}"] = Path(entry.path)
            else:
                kinds[suffix or "without a suffix"] += 1
        return kinds

    @property
    def notes(self) -> list[str]:
        """What is left out, counted, in a sentence."""
        kinds = Counter({kind: count for kind, count in self._left_out.items() if kind})
        if not kinds:
            return []
        several = counted(sum(kinds.values()), "file or folder", "files or folders")
        return [f"{self.folder}: left out: {several} ({_told(kinds)})"]

    def filled(self) -> dict[str, int]:
        """Class -> its images, of the classes that have some."""
        return {name: kinds[""] for name, kinds in self.classes.items() if kinds[""]}

    def empty(self) -> list[str]:
        """The classes without an image."""
        return [name for name, kinds in self.classes.items() if not kinds[""]]

    def check_none_empty(self) -> None:
        """Raise DataError where a class has a folder and no image."""
        if not (empty := self.empty()):
            return
        kinds = self.classes[empty[0]]
        holds = _told(kinds) or "nothing"
        read = " ".join(sorted(SUFFIXES))
        raise DataError(
            f"{self.folder / empty[0]}: holds no image for this class (it holds {holds}; read are {read})."
            + (f" So it is with {len(empty) - 1} more: {', '.join(empty[1:21])}." if len(empty) > 1 else "")
            + (" Move the images up into it." if kinds.get(DEEPER) else " Convert the files, or delete the folder.")
        )


def _check_known(train: _Split, test: _Split) -> None:
    """Raise DataError where another split has a class that cannot be learned."""
    known = {same_name(name): name for name in train.classes}
    if len({same_name(escaped(name)) for name in train.classes}) < len(train.classes):
        raise DataError(
            f"{train.folder}: the names of two folders are the same text in two encodings. Join or rename them."
        )
    filled = {same_name(name): name for name in test.classes if test.classes[name][""]}
    if unknown := [filled[key] for key in sorted(filled.keys() - known.keys())]:
        raise DataError(
            f"{test.folder}: has images of {counted(len(unknown), 'class')} without a folder under {train.folder}: "
            f"{', '.join(unknown[:20])}. The classes there are {', '.join(list(known)[:20])}. "
            "Rename the folders so that they agree, or delete those."
        )


@SOURCES.register("folder", locate=_locate, needs_root=LAYOUT, by_split=True, version=2)
def folder(
    files: Files, split: str, *, background: Background = "white", bits: Bits = None, broken: Broken = "error"
) -> Contents:
    """Your own images, a folder per class."""
    mine = [(name, path) for name, path in files.items() if name.startswith(f"{split}/")]
    if not mine:
        raise DataError(_lacks(files, split))
    named = {name.split("/")[1] for name in files if name.startswith("train/")} or {n.split("/")[1] for n, _ in mine}
    classes, notes = sorted(named), list[str]()
    label_of = {same_name(name): label for label, name in enumerate(classes)}

    def rows() -> Iterator[Row]:
        reader = Reader(background, bits, broken)
        labels = (label_of[same_name(name.split("/")[1])] for name, _ in mine)
        yield from reader.rows(
            (partial(read_bounded, path), label, str(path)) for label, (_, path) in zip(labels, mine, strict=True)
        )
        reader.finish(os.path.commonpath([mine[0][1], mine[-1][1]]), classes if split == "train" else ())
        notes.extend(reader.notes(split))

    return Contents(classes, rows(), notes)


def _lacks(files: Files, split: str) -> str:
    """What to say where a split is not there."""
    there = Counter(name.partition("/")[0] for name in files)
    told = " and ".join(f"{counted(n, 'image')} of the {other} split" for other, n in there.items())
    place = next(iter(files.values())).parents[2]
    unused = "".join(f" {note}." for note in getattr(files, "notes", ()) if "is not used" in note)
    return f"{place}: holds no image of the {split} split, but {told}; {EXPECTED}.{unused}{cut_advice(split)}"
