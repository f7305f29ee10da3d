"""Loads the images of a data source by its name, and computes its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fusiondistill.data.cache import channel_statistics, open_or_decode
from fusiondistill.data.decoding import RULES
from fusiondistill.data.errors import DataError, unknown
from fusiondistill.data.files import cache_folder, recalled, remember
from fusiondistill.data.fingerprints import content_digest, signature
from fusiondistill.data.image_set import ImageSet, Statistics
from fusiondistill.data.names import escaped
from fusiondistill.data.source import Contents, Files, Root, Row
from fusiondistill.sources import SOURCES, Source

__all__ = ["SPLITS", "fingerprint", "load_images"]

SPLITS = ("train", "test")


def load_images(name: str, split: str, root: Root = None, **parameters: Any) -> ImageSet:
    """Load one split of a data set.

    The first call decodes it into the cache folder (`FUSIONDISTILL_CACHE`). Later calls, by any process of the node,
    map that file in milliseconds and share one physical copy of the pixels.

    Args:
        name: a key of ``fusiondistill.SOURCES``.
        split: "train" or "test".
        root: where the files lie; each source's module says which roots it takes.
        parameters: of the source: ``SOURCES[name].parameters``.

    Returns:
        the images uint8 [N, 3, H, W] (0..255), labels int64 [N], class names, mean and std.

    Raises:
        DataError: the name or split is unknown; a file is missing, damaged, or has another content than expected.
        ValueError: an unknown parameter, or one of a wrong type or out of range.

    Example:
        >>> load_images("digits", "train")
        ImageSet(digits: 1,397 images 16x16, 10 classes)
    """
    source = _source(name, split)
    asked = _Asked(source, _absolute(root), source.checked(parameters))
    files = source.locate(asked.root, asked.parameters)
    known_by = signature(source, files, asked.parameters)
    whole = content_digest(source, files, asked.parameters, known_by)
    decoded = open_or_decode(_entry(source, split, whole), partial(_read, asked, files, split, known_by))
    return ImageSet(
        name,
        decoded.images,
        decoded.labels,
        decoded.classes,
        statistics=partial(_statistics, asked, whole),
        flip=source.flip,
        fingerprint=_of_split(whole, split),
        notes=[*getattr(files, "notes", ()), *decoded.notes],
        reload=(partial(load_images, **asked.parameters), (name, split, asked.root)),
    )


def fingerprint(name: str, split: str | None = None, root: Root = None, **parameters: Any) -> str:
    """A digest of a data set's content, 64 hex digits, the same on every machine and for every root.

    It is the sha256 of the source's name, version (of a plugin: the digest of its file), parameters, file names (within
    the root) and file contents. It is cached under path, size and time of the files, so later calls read no content. A
    missing archive that can be downloaded is downloaded first.

    Args:
        name: a key of ``fusiondistill.SOURCES``.
        split: "train" or "test": the value that `load_images(name, split, root).fingerprint` has; None: one for both.
        root, parameters: as for :func:`load_images`.

    Raises:
        DataError: the name or split is unknown, or a file is missing.
        ValueError: an unknown parameter, or one of a wrong type or out of range.
    """
    source = _source(name, split)
    known = source.checked(parameters)
    files = source.locate(root, known)
    whole = content_digest(source, files, known, signature(source, files, known))
    return whole if split is None else _of_split(whole, split)


class _Asked(NamedTuple):
    """A source, where its files lie, and its parameters."""

    source: Source
    root: Root
    parameters: dict[str, Any]


def _source(name: str, split: str | None) -> Source:
    if name not in SOURCES:
        raise unknown(SOURCES.kind, name, SOURCES)
    if split is not None and split not in SPLITS:
        raise unknown("split", split, SPLITS, " A validation split is cut off by `.holdout(fraction, seed)`.")
    return SOURCES[name]


def _absolute(root: Root) -> Root:
    """The root as absolute paths, since a worker has another current folder than the process that sends it the root."""
    if isinstance(root, list):
        return [Path(item).expanduser().absolute() for item in root]
    return None if root is None else Path(root).expanduser().absolute()


def _of_split(whole: str, split: str) -> str:
    return hashlib.sha256(f"{whole}\0{split}".encode()).hexdigest()


def _entry(source: Source, split: str, whole: str) -> Path:
    return cache_folder() / "decoded" / f"{source.name}-{split}-{whole[:32]}-{RULES}"


def _read(asked: _Asked, files: Files, split: str, known_by: str) -> Contents:
    """The source's contents. After the last row the files are checked against the fingerprint again."""
    source = asked.source
    contents: object = source.function(files, split, **asked.parameters)
    if not isinstance(contents, tuple) or len(contents) not in (2, 3):
        raise source.gave(f"must return Contents(classes, rows), not {type(contents).__name__}")
    classes, rows, notes = Contents(*contents)

    def checked() -> Iterator[Row]:
        yield from rows
        if signature(source, files, asked.parameters) != known_by:
            raise DataError(
                f"the files of {source.name} changed while they were read: "
                f"{', '.join(str(path) for path in list(files.values())[:3])}. Try again."
            )

    return Contents([escaped(name) if isinstance(name, str) else name for name in classes], checked(), notes)


def _statistics(asked: _Asked, whole: str) -> Statistics:
    """Mean and std: published, or computed once on the training split and cached beside its pixels."""
    source = asked.source
    if source.mean is not None and source.std is not None:
        return source.mean, source.std
    memo = _entry(source, "train", whole) / "statistics.json"
    if known := recalled(memo):
        return tuple(known["mean"]), tuple(known["std"])
    training = load_images(source.name, "train", asked.root, **asked.parameters)
    mean, std = channel_statistics(training.images)
    if training.fingerprint == _of_split(whole, "train"):
        remember(memo, {"mean": mean, "std": std})
    return mean, std
