"""A plan's images in a few lines, so that nobody trains on half a folder unknowingly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fusiondistill.config import DataConfig

if TYPE_CHECKING:
    from fusiondistill.data import ImageSet

__all__ = ["summary"]


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
    lines = [f"data: {data.name}, images: {counts}; {len(train.classes)} classes, {width}x{height} pixels"]
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
    used = {"training": data.train_images, "test": data.test_images}
    if told := [f"{count:,} {split} images" for split, count in used.items() if count is not None]:
        lines.append(f"  used: {' and '.join(told)}, balanced over the classes")
    return lines
