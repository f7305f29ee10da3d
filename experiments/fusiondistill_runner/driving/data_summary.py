"""What a plan says of its images, so that its reader sees where half a folder is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fusiondistill.catalogue import WIDTH, wrapped
from fusiondistill.config import DataConfig
from fusiondistill.counting import counted
from fusiondistill.data.names import look_alike

if TYPE_CHECKING:
    from fusiondistill.data import ImageSet

__all__ = ["Summary", "summary"]


FEW = 50
"""Test images below which their number is said to be small."""
LARGEST = 2**32
"""Bytes of pixels; in larger sets a plan does not look for equal images, ``data check`` does."""


@dataclass(frozen=True)
class Summary:
    """What a plan says of a data set.

    Attributes:
        name: of the set, with the name of its place.
        images: (split, how many).
        classes: how many.
        size: (height, width) of the training images in pixels.
        largest, smallest: the class with most and the one with fewest training images, and how many these are.
        alike: classes whose names look alike, in a sentence; "" for none.
        crossing: (split, how many of its images are training images, too).
        used: (training or test, how many images are used), where the config takes fewer than there are.
    """

    name: str
    images: tuple[tuple[str, int], ...]
    classes: int
    size: tuple[int, int]
    largest: tuple[str, int]
    smallest: tuple[str, int]
    alike: str = ""
    crossing: tuple[tuple[str, int], ...] = ()
    used: tuple[tuple[str, int], ...] = ()

    @property
    def share(self) -> float:
        """The largest class's part of the training images."""
        return self.largest[1] / dict(self.images)["train"]

    @property
    def tested(self) -> int:
        """How many test images are used."""
        return dict(self.used).get("test") or dict(self.images).get("test", 0)

    def lines(self) -> list[str]:
        """Images of each split, classes, size and balance, in lines of at most 80 columns where names are short."""
        counts = ", ".join(f"{split} {count:,}" for split, count in self.images)
        height, width = self.size
        told = f"data: {self.name}, images: {counts}; {counted(self.classes, 'class')}, {width}x{height} pixels"
        lines = wrapped(told, WIDTH)
        (most, count), (fewest, least) = self.largest, self.smallest
        if count == least:
            lines.append(f"  each class has {counted(count, 'training image')}")
        else:
            share = f"({100 * self.share:.1f} %)"
            lines.append(
                f"  largest class {most}: {counted(count, 'training image')} {share}, smallest {fewest}: {least:,}"
            )
        lines += [f"  {self.alike}"] if self.alike else []
        if self.crossing:
            told = ", ".join(f"{count:,} {split}" for split, count in self.crossing)
            lines.append(f"  among the training images, too (equal pixels): {told}")
        if self.used:
            limits = " and ".join(counted(count, f"{split} image") for split, count in self.used)
            lines.append(f"  used: {limits}, balanced over the classes")
        return lines + [f"  {text}" for text in few("test", self.tested, "every accuracy")]

    def content(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return {
            "name": self.name,
            "images": dict(self.images),
            "classes": self.classes,
            "height": self.size[0],
            "width": self.size[1],
            "largest_class": {"name": self.largest[0], "images": self.largest[1], "share": self.share},
            "smallest_class": {"name": self.smallest[0], "images": self.smallest[1]},
            "alike": self.alike or None,
            "also_training_images": dict(self.crossing),
            "used": dict(self.used),
            "points_of_a_test_image": round(100 / self.tested, 1) if self.tested else None,
        }


def few(split: str, count: int, accuracy: str) -> Iterator[str]:
    """A note where one image of a split counts for much in an accuracy."""
    if 0 < count < FEW:
        yield f"few {split} images ({count}): each is {100 / count:.1f} points of {accuracy}"


def summary(data: DataConfig, images: Mapping[str, ImageSet]) -> Summary:
    """What a config's images are.

    Args:
        data: of the config.
        images: split -> its images.
    """
    train = images["train"]
    given = data.labels or data.images or data.root
    of_class = train.labels.bincount(minlength=len(train.classes)).tolist()
    most, fewest = of_class.index(max(of_class)), of_class.index(min(of_class))
    limits = {"training": (data.train_images, "train"), "test": (data.test_images, "test")}
    used = {split: count for split, (count, own) in limits.items() if count and count < len(images[own])}
    return Summary(
        name=f"{data.name} {PurePath(given).name}" if given else data.name,
        images=tuple((split, len(one)) for split, one in images.items()),
        classes=len(train.classes),
        size=train.size,
        largest=(train.classes[most], of_class[most]),
        smallest=(train.classes[fewest], of_class[fewest]),
        alike=look_alike(train.classes),
        crossing=tuple(({} if data.test else _crossing(images)).items()),
        used=tuple(used.items()),
    )


def _crossing(images: Mapping[str, ImageSet]) -> dict[str, int]:
    """Split -> how many of its images are training images; kept in the cache beside the decoded images."""
    from fusiondistill.data.cutting import content_of
    from fusiondistill.data.files import cache_folder, recalled, remember

    train = images["train"]
    others = {split: one for split, one in images.items() if split != "train"}
    if sum(one.images.numel() for one in images.values()) > LARGEST:
        return {}
    prints = "-".join(one.fingerprint[:16] for one in images.values())
    memo = cache_folder() / "crossing" / f"{prints}.json"
    found = recalled(memo)
    if found is None:
        known = set(content_of(train.images))
        found = {split: sum(one in known for one in content_of(own.images)) for split, own in others.items()}
        remember(memo, found)
    return {split: count for split, count in found.items() if split in others and count}
