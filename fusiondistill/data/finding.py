"""Finds image files by what a user gives: files, folders with all that is in them, patterns like ``photos/*.jpg``."""

# ruff: noqa: PTH100, PTH111, PTH112, PTH122  # os.path takes any text; Path raises where it is too long

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from fusiondistill.counting import counted
from fusiondistill.data.decoding import SUFFIXES
from fusiondistill.data.errors import DataError

__all__ = ["FoundImages", "entries", "find_images", "hidden"]

SYSTEM = {"__MACOSX", "__pycache__", "@eaDir", "Thumbs.db", "desktop.ini"}
"""Written by operating systems; left out like hidden files."""


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error}).") from error


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or written by the operating system."""
    return name.startswith(".") or name in SYSTEM


@dataclass
class FoundImages:
    """Files to read.

    Attributes:
        files: their paths as they were given, or below a folder that was; each file once, in order.
        left_out: suffix -> how many files of folders and patterns were left out, since they are no images by it.
        again: how many times a file was met that was there already.
    """

    files: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    again: int = 0

    @property
    def note(self) -> str:
        """What is left out, in a line; "" where nothing is."""
        told = ", ".join(f"{count:,} {suffix}" for suffix, count in self.left_out.most_common())
        parts = [told and f"left out are files that are no images by their suffix: {told}"]
        parts.append(f"given twice, and read once: {counted(self.again, 'file')}" if self.again else "")
        return "; ".join(filter(None, parts))


def find_images(given: Iterable[str | Path], *, listed: Iterable[str] = ()) -> FoundImages:
    """Find images.

    Args:
        given: files of any suffix; folders, of which all images below are taken; patterns, in which ``**`` stands for
            any folders. What is there by its name is no pattern.
        listed: more files and folders; that a file is missing is found when it is read.

    Raises:
        DataError: one is not there, a pattern fits no image, a folder cannot be read, or there is no image at all.
    """
    found, taken = FoundImages(), dict[str, str]()
    where = [str(one) for one in given]
    ways = [_images(os.path.expanduser(one), found) for one in where]
    ways += [_below(one, found, set()) if os.path.isdir(one) else iter([one]) for one in listed]
    for path in chain.from_iterable(ways):
        found.again += os.path.abspath(path) in taken
        taken.setdefault(os.path.abspath(path), path)
    found.files = list(taken.values())
    if not found.files:
        named = ", ".join(where[:5]) + (", ..." if len(where) > 5 else "") or "the list"
        raise DataError(f"{named}: there is no image to read{f': {found.note}' if found.note else ''}. {READ}")
    return found


READ = f"Read are .jpg, .png, .webp and {len(SUFFIXES) - 3} more suffixes; a file given by its own name may have any."


def _images(text: str, found: FoundImages) -> Iterator[str]:
    """The images that one thing stands for that a user gave."""
    if os.path.isdir(text):
        yield from _below(text, found, set())
    elif os.path.lexists(text):
        yield text
    elif glob.has_magic(text):
        images = [path for one in _matches(text) for path in _of_match(one, found)]
        if not images:
            raise DataError(f"{text}: no image fits this pattern. {READ}")
        yield from images
    else:
        raise DataError(f"{text}: there is no such file or folder.")


def _matches(pattern: str) -> list[str]:
    """What fits a pattern, without hidden names that it does not spell out; ``**`` follows no links."""
    whole = Path(pattern)
    base = Path(whole.anchor)
    fitting = base.glob(str(whole.relative_to(base)))
    return sorted(str(path) for path in fitting if not any(map(hidden, set(path.parts).difference(whole.parts))))


def _of_match(path: str, found: FoundImages) -> Iterator[str]:
    """The images of what fits a pattern: a folder's, or the file itself if it is an image by its suffix."""
    if os.path.isdir(path):
        yield from _below(path, found, set())
    elif _is_image(path, found):
        yield path


def _below(folder: str, found: FoundImages, above: set[str]) -> Iterator[str]:
    """The images in a folder and in those below; a link that leads to a folder ``above`` it is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in entries(folder):
        if hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _below(entry.path, found, above | {real})
        elif entry.is_file() and _is_image(entry.name, found):
            yield entry.path


def _is_image(name: str, found: FoundImages) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in SUFFIXES:
        found.left_out[suffix or "without a suffix"] += 1
    return suffix in SUFFIXES
