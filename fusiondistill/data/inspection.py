"""Looks at every image of a data set as it is: counts, sizes, colours, what is broken, what is there twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fusiondistill.counting import counted
from fusiondistill.data.arrangement import CUT
from fusiondistill.data.cache import suggested_size
from fusiondistill.data.decoding import to_be_resized
from fusiondistill.data.errors import DataError
from fusiondistill.data.loading import Located, locate
from fusiondistill.data.names import escaped, look_alike
from fusiondistill.data.reading import BROKEN, observing
from fusiondistill.data.source import Place

__all__ = ["Copy", "Facts", "SplitFacts", "inspect"]

TEST_SHARE = 0.2


@dataclass
class SplitFacts:
    """What one split holds."""

    images: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    """Class -> images that can be read."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) in pixels, upright -> images."""
    modes: Counter[str] = field(default_factory=Counter)
    """How files store their colours, in Pillow's words -> images; empty for sources without image files."""
    broken: list[str] = field(default_factory=list)
    """What is wrong with each file that cannot be read."""
    problems: list[str] = field(default_factory=list)
    """What makes the split unusable as it stands."""
    bits: int | None = None
    """What `data.bits` must say of its 16-bit images, perhaps."""
    notes: list[str] = field(default_factory=list)
    """What users should know of how its images are read; broken ones apart."""


class Copy(NamedTuple):
    """Images of equal pixels: where they are, in which splits, with which labels."""

    where: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass
class Facts:
    """What a data set holds, and what to write into a config for it."""

    splits: dict[str, SplitFacts]
    notes: tuple[str, ...]
    copies: list[Copy]
    keys: dict[str, Any]
    """The keys of ``data:`` that make it usable."""
    lacking: bool = False
    """Whether a table has rows without an image or a label."""

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """All sizes, of all splits."""
        return sum((one.sizes for one in self.splits.values()), Counter())

    @property
    def wrong(self) -> list[str]:
        """What no key of a config mends, a sentence each."""
        crossing = sum(len(set(copy.splits)) > 1 for copy in self.copies)
        doubtful = sum(len(set(copy.classes)) > 1 for copy in self.copies)
        broken = sum(len(one.broken) for one in self.splits.values())
        own = {name: count for name, count in self.splits["train"].classes.items() if count}
        others = {name for one in self.splits.values() for name, count in one.classes.items() if count}
        lacking = sorted(others - own.keys())
        found = [problem for one in self.splits.values() for problem in one.problems]
        found += ["all training images are of one class"] if len(own) == 1 else []
        found += ["no class has two images"] if max(own.values()) == 1 else []
        found += ["rows of the table lack their image or label"] if self.lacking else []
        found += [counted(broken, "file is broken", "files are broken")] if broken else []
        found += [counted(crossing, "image stands in two splits", "images stand in two splits")] if crossing else []
        found += (
            [counted(doubtful, "image is there with two labels", "images are there with two labels")]
            if doubtful
            else []
        )
        what = counted(len(lacking), "class of another split has", "classes of other splits have")
        told = f"{what} no training image: {', '.join(lacking[:10])}"
        return [*found, *([told] if lacking else [])]


def inspect(name: str, place: Place, keys: Mapping[str, Any], settings: Mapping[str, Any]) -> Facts:
    """Read every image of a data set once; stores nothing but digests of the files.

    Args:
        name: a key of ``fusiondistill.SOURCES``.
        place: where the files are, as :func:`fusiondistill.load_images` takes it.
        keys: the keys of ``data:`` that say this, and those of ``settings``.
        settings: what :func:`fusiondistill.load_images` takes by name.

    Raises:
        DataError: the files cannot be found, or are none of the source's.
    """
    there, cut = _located(name, place, settings)
    splits, copies = dict[str, SplitFacts](), dict[bytes, list[tuple[str, str, str]]]()
    for split in there.own_splits:
        splits[split] = _look(there, split, copies)
    found = [Copy(*map(tuple, zip(*alike, strict=True))) for alike in copies.values() if len(alike) > 1]
    notes = [*there.notes, *(note for one in splits.values() for note in one.notes)]
    facts = Facts(splits, tuple(dict.fromkeys(notes)), found, dict(keys))
    if "train" not in splits:
        raise DataError(f"{name}: there is no training split, only {', '.join(splits)}.")
    if not (train := splits["train"]).images:
        raise DataError(" ".join([*(train.problems or [f"{name}: has no training image."]), *train.broken[:1]]))
    facts.lacking = bool(getattr(there.files, "lacking", False))
    if bits := max((one.bits or 0 for one in splits.values()), default=0):
        facts.keys["bits"] = bits
    if idle := [one for one, count in train.classes.items() if not count]:
        told = f"{', '.join(idle[:10])}{', ...' if len(idle) > 10 else ''}"
        facts.notes += (f"without a training image: {len(idle):,} of {counted(len(train.classes), 'class')}: {told}",)
    facts.notes += (alike,) if (alike := look_alike(train.classes)) else ()
    if len(facts.sizes) > 1 and "size" not in settings:
        facts.keys["size"] = suggested_size(facts.sizes)
    untold = any(CUT in problem for problem in splits["test"].problems) if "test" in splits else False
    if (cut or untold) and "test" not in settings:
        facts.keys["test"] = TEST_SHARE
    if facts.lacking or any(one.broken for one in splits.values()):
        facts.keys["broken"] = "skip"
    return facts


def _located(name: str, place: Place, settings: Mapping[str, Any]) -> tuple[Located, bool]:
    """The data set, broken files left out where its source can; and whether a test split must be cut off."""
    from fusiondistill.sources import SOURCES

    known = dict(settings)
    if name in SOURCES and "broken" in SOURCES[name].parameters.model_fields:
        known["broken"] = "skip"
    try:
        there = locate(name, place, **known)
        if "test" in there.own_splits or there.arrangement.test is not None:
            return there, False
    except DataError as first:
        if "test" in settings:
            raise
        try:
            return locate(name, place, **known, test=TEST_SHARE), True
        except DataError:
            if CUT in str(first):  # which the user has not written, and which was tried
                raise
        raise
    return locate(name, place, **known, test=TEST_SHARE), True


def _look(there: Located, split: str, copies: dict[bytes, list[tuple[str, str, str]]]) -> SplitFacts:
    """What one split holds; takes its images' contents into ``copies``: digest -> (where, split, class)."""
    facts = SplitFacts()
    with to_be_resized(), observing() as seen:
        try:
            contents = there.source.function(there.files, split, **there.parameters)
            names = [escaped(str(one)) for one in contents.classes]
            facts.classes = dict.fromkeys(names, 0)
            for image, label, where in contents.rows:
                facts.images += 1
                facts.sizes[image.shape[:2]] += 1
                called = names[label] if 0 <= label < len(names) else str(label)
                facts.classes[called] = facts.classes.get(called, 0) + 1
                content = hashlib.blake2b(str(image.shape).encode() + image.tobytes(), digest_size=16).digest()
                copies.setdefault(content, []).append((where, split, called))
            facts.notes = [note for note in contents.notes if BROKEN not in note]
        except DataError as error:
            facts.problems.append(str(error))
    facts.modes, facts.broken, facts.bits = seen.modes, seen.broken, seen.bits
    return facts
