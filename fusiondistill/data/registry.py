"""Every data set that can be named, and the two things to do with a name: load it, or tell its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fusiondistill.data.cache import channel_statistics, open_or_decode
from fusiondistill.data.cifar import CIFAR10, CIFAR100
from fusiondistill.data.digits import DIGITS
from fusiondistill.data.errors import DataError, unknown
from fusiondistill.data.files import cache_folder, recalled, remember
from fusiondistill.data.fingerprints import content_digest, signature
from fusiondistill.data.folder import FOLDER
from fusiondistill.data.image_set import ImageSet, Statistics
from fusiondistill.data.parquet import PARQUET
from fusiondistill.data.source import Contents, Files, Root, Row, Source
from fusiondistill.data.tiny_imagenet import TINY_IMAGENET

__all__ = ["SOURCES", "SPLITS", "fingerprint", "load_images"]

SOURCES = {source.name: source for source in (DIGITS, CIFAR10, CIFAR100, TINY_IMAGENET, PARQUET, FOLDER)}
SPLITS = ("train", "test")


def load_images(name: str, split: str, root: Root = None) -> ImageSet:
    """Load one split of a data set.

    The first call decodes it into the cache folder (`FUSIONDISTILL_CACHE`); later ones, by any process of the node, map
    that file in milliseconds and share one physical copy of the pixels.

    Args:
        name: a key of :data:`SOURCES`.
        split: "train" or "test".
        root: where the files lie; what may be given is told by each source's module.

    Returns:
        the images uint8 [N, 3, H, W] (0..255), labels int64 [N], class names, mean and std.

    Raises:
        DataError: the name or split is unknown; a file is missing, damaged, or not what it should be.

    Example:
        >>> load_images("digits", "train")
        ImageSet(digits: 1,397 images 16x16, 10 classes)
    """
    source = _source(name, split)
    root = _absolute(root)
    files = source.locate(root)
    known_by = signature(source, files)
    whole = content_digest(source, files, known_by)
    decoded = open_or_decode(_entry(source, split, whole), partial(_read, source, files, split, known_by))
    return ImageSet(
        name,
        decoded.images,
        decoded.labels,
        decoded.classes,
        statistics=partial(_statistics, source, root, whole),
        flip=source.flip,
        fingerprint=_of_split(whole, split),
        reload=(load_images, (name, split, root)),
    )


def fingerprint(name: str, split: str | None = None, root: Root = None) -> str:
    """What a data set contains, as 64 hex digits: the same on every machine and wherever the files lie.

    It is the sha256 of the source's name, decoder version, file names (within the root) and file contents; nothing is
    decoded. The result is remembered by path, size and time of the files, so later calls only look at those. An archive
    that can be downloaded and is not there yet is downloaded first.

    Args:
        name: a key of :data:`SOURCES`.
        split: "train" or "test": the value that `load_images(name, split, root).fingerprint` has; None: one for both.
        root: as for :func:`load_images`.

    Raises:
        DataError: the name or split is unknown, or a file is missing.
    """
    source = _source(name, split)
    files = source.locate(root)
    whole = content_digest(source, files, signature(source, files))
    return whole if split is None else _of_split(whole, split)


def _source(name: str, split: str | None) -> Source:
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    if split is not None and split not in SPLITS:
        raise unknown("split", split, SPLITS, " A validation split is cut off by `.holdout(fraction, seed)`.")
    return SOURCES[name]


def _absolute(root: Root) -> Root:
    """A worker has another current folder than whoever sends it an image set."""
    if isinstance(root, list):
        return [Path(item).expanduser().absolute() for item in root]
    return None if root is None else Path(root).expanduser().absolute()


def _of_split(whole: str, split: str) -> str:
    return hashlib.sha256(f"{whole}\0{split}".encode()).hexdigest()


def _entry(source: Source, split: str, whole: str) -> Path:
    return cache_folder() / "decoded" / f"{source.name}-{split}-{whole[:32]}"


def _read(source: Source, files: Files, split: str, known_by: str) -> Contents:
    """The source's contents, with a check at the end that the files are still those of the fingerprint."""
    classes, rows = source.read(files, split)

    def checked() -> Iterator[Row]:
        yield from rows
        if signature(source, files) != known_by:
            raise DataError(
                f"the files of {source.name} changed while they were read: "
                f"{', '.join(str(path) for path in list(files.values())[:3])}. Try again."
            )

    return Contents(classes, checked())


def _statistics(source: Source, root: Root, whole: str) -> Statistics:
    """Mean and std: published, or computed once on the training split and kept beside its pixels."""
    if source.mean is not None and source.std is not None:
        return source.mean, source.std
    memo = _entry(source, "train", whole) / "statistics.json"
    if known := recalled(memo):
        return tuple(known["mean"]), tuple(known["std"])
    training = load_images(source.name, "train", root)
    mean, std = channel_statistics(training.images)
    if training.fingerprint == _of_split(whole, "train"):
        remember(memo, {"mean": mean, "std": std})
    return mean, std
