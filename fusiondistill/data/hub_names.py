"""Which split and configuration of a data set a Parquet file belongs to, by its path, as the Hub's tools name them.

The tools are ``push_to_hub`` (``data/train-00000-of-00002.parquet``, earlier with a hash at the end, of a configuration
``en/train-...``), the Hub's own conversion (``refs/convert/parquet``: ``en/train/0000.parquet``,
``en/partial-train/0000.parquet``, ``en/train-part0/0000.parquet``), ``to_parquet`` and ``download_and_prepare``
(``train.parquet``, ``cifar10-train-00000-of-00002.parquet``), and people's own names, which the ``datasets`` library
searches for the keywords below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from fusiondistill.data.errors import DataError

__all__ = ["KEYWORDS", "SPLIT_WORDS", "VALIDATION", "Place", "check_shards", "chosen_label", "place_of", "stands_in"]

KEYWORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev"),
}
"""Split -> words that name it, the first that is there counts: those of the ``datasets`` library. A validation split
stands in for a test split that is not there."""

VALIDATION = ("validation", "valid", "val", "dev", "eval", "evaluation")
"""Words that name a validation split, where there is a test split beside it."""

SPLIT_WORDS = {"train": KEYWORDS["train"], "test": ("test", "testing"), "validation": VALIDATION}
"""Split -> words that name it, where each word is of one split."""

_ALL = frozenset(word for words in KEYWORDS.values() for word in words)
_BETWEEN = re.compile(r"[-._ =0-9]+")
_SHARD = re.compile(r"(?P<name>.*?)[-_.]?(?P<number>\d+)-of-(?P<total>\d+)(?P<hash>.*)", re.DOTALL)
_PART = re.compile(r"(partial-)?(?P<name>.+?)(-part\d+)?", re.DOTALL)
MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Place:
    """Where a file belongs.

    Attributes:
        config: the folders above what names the split, joined by "/"; "" if there are none.
        label: the split as the path names it, in lower case.
        partial: whether the Hub converted only the first part of the split.
    """

    config: str
    label: str
    partial: bool = False


def place_of(path: str) -> Place:
    """Configuration and split of a file, by its path below the root.

    The file's own name is asked first, then its folder, and so on upwards: the first that has a keyword names the
    split. Where none has one, the split is called like the file without its number, or like its folder.

    Example:
        >>> place_of("en/train/0000.parquet"), place_of("data/test-00000-of-00001-9e1b.parquet")
        (Place(config='en', label='train', partial=False), Place(config='data', label='test', partial=False))
    """
    *folders, name = path.split("/")
    stem = PurePosixPath(name).stem.lower()
    sharded = _SHARD.fullmatch(stem)
    own = sharded["name"].rpartition("-")[2] if sharded else stem
    if word := own if own in _ALL else "" if sharded else _keyword(stem):
        return Place("/".join(folders), word, _partial(folders[-1:]))
    for at in range(len(folders) - 1, -1, -1):
        if word := _keyword(_whole(folders[at])):
            return Place("/".join(folders[:at]), word, _partial(folders[at : at + 1]))
    if own.strip("-._ 0123456789"):
        return Place("/".join(folders), own if sharded else own.rstrip("-._ 0123456789"))
    return Place("/".join(folders[:-1]), _whole(folders[-1]) if folders else own, _partial(folders[-1:]))


def _whole(folder: str) -> str:
    match = _PART.fullmatch(folder.lower())
    return match["name"] if match else folder.lower()


def _partial(folders: list[str]) -> bool:
    return any(folder.startswith("partial-") for folder in folders)


def _keyword(text: str) -> str:
    """The split's keyword in a name: its first word, else its last, else any."""
    words = [word for word in _BETWEEN.split(text) if word]
    found = [word for word in words if word in _ALL]
    if not found:
        return ""
    return next((word for word in (words[0], words[-1]) if word in _ALL), found[-1])


def chosen_label(labels: Iterable[str], split: str, wanted: str | None) -> str | None:
    """The label that is used as the split "train", "test" or "validation"; None if there is none.

    Args:
        labels: of the files, or of a set's card.
        split: "train", "test" or "validation".
        wanted: the label that the user names; None: the first keyword that is there.

    Raises:
        DataError: the label that the user names is not there, or several may be meant.
    """
    known = {label.lower(): label for label in labels}
    if wanted is not None:
        if wanted.lower() not in known:
            raise DataError(f"data.{split}_split: there is no split {wanted!r}. There are {', '.join(known.values())}.")
        return known[wanted.lower()]
    words = VALIDATION if split == "validation" else KEYWORDS[split]
    for word in words:
        if word in known:
            return known[word]
    for word in words:
        alike = [label for key, label in known.items() if word in _BETWEEN.split(key)]
        if len(alike) > 1:
            raise DataError(f"several splits may be meant: say data.{split}_split: {' or '.join(sorted(alike))}.")
        if alike:
            return alike[0]
    return None


def stands_in(label: str, split: str) -> str | None:
    """A sentence where a split of another name is used as the test split; None where its name says "test"."""
    if split != "test" or "test" in label.lower():
        return None
    return f"there is no test split; {label} is used as the test split"


def check_shards(files: Mapping[str, object], where: str) -> None:
    """Raise DataError where the names of a split's files say that one is missing, or there twice.

    Names say it as ``train-00002-of-00005`` (numbered from 0, by some tools from 1), whatever hash follows, and by the
    Hub's conversion as 0000, 0001, ... without their number.
    """
    series: dict[tuple[str, str], dict[int, str]] = {}
    plain: dict[str, dict[int, str]] = {}
    totals: dict[str, str] = {}
    for path in sorted(files):
        folder, stem = str(PurePosixPath(path).parent), PurePosixPath(path).stem
        if match := _SHARD.fullmatch(stem):
            name, total = f"{folder}/{match['name']}", match["total"]
            numbers = series.setdefault((name, total), {})
            if (other := totals.setdefault(name, total)) != total:
                raise DataError(
                    f"{where}: files of two numberings of one split, of {other} and of {total}: {path}. {_OLD}"
                )
            if (twice := numbers.get(int(match["number"]))) is not None:
                raise DataError(f"{where}: {twice} and {path} are the same part of one split. {_OLD}")
            numbers[int(match["number"])] = path
        elif re.fullmatch(r"\d{4}", stem):
            plain.setdefault(folder, {})[int(stem)] = path
    for (_, total), numbers in series.items():
        _check_all(numbers, min(int(total), MOST_SHARDS), f"-of-{total}", where)
    for numbers in plain.values():
        if 0 in numbers:
            _check_all(numbers, max(numbers) + 1, "", where)


_OLD = "One of them is left from an earlier upload: delete it."


def _check_all(numbers: Mapping[int, str], total: int, end: str, where: str) -> None:
    first = 0 if 0 in numbers or total not in numbers else 1
    for number in range(first, total + first):
        if number not in numbers:
            known = PurePosixPath(next(iter(numbers.values())))
            head, _, tail = known.stem.partition(end) if end else (known.stem, "", "")
            digits = re.split(r"\D", head)[-1]
            lacking = f"{head.removesuffix(digits)}{number:0{len(digits)}}{end}{'-*' if tail else ''}{known.suffix}"
            raise DataError(f"{where}: {known.with_name(lacking)} is missing beside {known}. Fetch the set again.")
