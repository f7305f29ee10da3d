"""A plan's images in a few lines, so that nobody trains on half a folder unknowingly."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from fusiondistill.config import DataConfig
from fusiondistill.data.names import look_alike

if TYPE_CHECKING:
    from fusiondistill.data import ImageSet

__all__ = ["summary"]


LARGEST = 2**32
"""Bytes of pixels; in larger sets a plan does not look for equal images, ``data check`` does."""


def summary(data: DataConfig, images: Mapping[str, ImageSet]) -> list[str]:
    """Images of each split, classes, size and balance, in lines of at most 80 columns where names are short.

    Args:
        data: of the config.
        images: split -> its images.
    """
    from fusiondistill_runner.working.data import image_size  # torch, which waits until the config is checked

    train = images["train"]
    counts = ", ".join(f"{split} {len(one):,}" for split, one in images.items())
    height, width = image_size(train)
    given = data.labels or data.images or data.root
    name = f"{data.name} {PurePath(given).name}" if given else data.name
    told = f"data: {name}, images: {counts}; {len(train.classes)} classes, {width}x{height} pixels"
    lines = textwrap.wrap(told, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    of_class = train.labels.bincount(minlength=len(train.classes)).tolist()
    most, fewest = of_class.index(max(of_class)), of_class.index(min(of_class))
    share = 100 * of_class[most] / len(train)
    if of_class[most] == of_class[fewest]:
        lines.append(f"  each class has {of_class[most]:,} training images")
    else:
        lines.append(
            f"  largest class {train.classes[most]}: {of_class[most]:,} training images ({share:.1f} %), "
            f"smallest {train.classes[fewest]}: {of_class[fewest]:,}"
        )
    lines += [f"  {alike}"] if (alike := look_alike(train.classes)) else []
    if crossing := {} if data.test else _crossing(images):
        told = ", ".join(f"{count:,} {split}" for split, count in crossing.items())
        lines.append(f"  {told} images are training images, too (equal pixels)")
    used = {"training": data.train_images, "test": data.test_images}
    if limits := [f"{count:,} {split} images" for split, count in used.items() if count is not None]:
        lines.append(f"  used: {' and '.join(limits)}, balanced over the classes")
    return lines


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
