"""Loads the images of a data source by its name, and computes its fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusiondistill.counting import counted
from fusiondistill.data.arrangement import Arrangement, Fit
from fusiondistill.data.cache import Decoded, channel_statistics, open_or_decode
from fusiondistill.data.cutting import content_of, cut_off
from fusiondistill.data.decoding import RULES, to_be_resized
from fusiondistill.data.errors import DataError, unknown
from fusiondistill.data.files import cache_folder, recalled, remember
from fusiondistill.data.fingerprints import content_digest, signature
from fusiondistill.data.image_set import ImageSet, Statistics
from fusiondistill.data.names import escaped
from fusiondistill.data.resizing import Resizer
from fusiondistill.data.source import Contents, Place, Root, Row
from fusiondistill.sources import SOURCES, Source

__all__ = ["SPLITS", "Located", "fingerprint", "load_images", "locate"]

SPLITS = ("train", "validation", "test")
"""Every set has the first and the last of them."""

CUT = "all"
"""What the cache calls the training images before a test split is cut off."""


def load_images(
    name: str,
    split: str,
    root: Place = None,
    *,
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    test: float | None = None,
    split_seed: int = 0,
    **parameters: Any,
) -> ImageSet:
    """Load one split of a data set.

    The first call decodes it into the cache folder (`FUSIONDISTILL_CACHE`). Later calls, by any process of the node,
    map that file in milliseconds and share one physical copy of the pixels.

    Args:
        name: a key of ``fusiondistill.SOURCES``.
        split: "train" or "test"; or "validation", for a set that has this split.
        root: where the files lie; each source's module says which roots it takes.
        size, fit: resize to so many pixels, 64 or (height, width), before the images are stored: "crop" the middle,
            "pad" with black, or "stretch"; None: as they are, all of one size.
        test, split_seed: the part of the training images to cut off as the test split, of a set that has none; class by
            class, a function of the seed alone. Images whose pixels are equal stay on one side.
        parameters: of the source: ``SOURCES[name].parameters``.

    Returns:
        the images uint8 [N, 3, H, W] (0..255), labels int64 [N], class names, mean and std.

    Raises:
        DataError: the name or split is unknown; a file is missing, damaged, or has another content than expected; the
            images have several sizes; there is a test split, and one is to be cut off.
        ValueError: an unknown parameter, or one of a wrong type or out of range.

    Example:
        >>> load_images("digits", "train")
        ImageSet(digits: 1,397 images 16x16, 10 classes)
        >>> load_images("digits", "train", size=32)
        ImageSet(digits: 1,397 images 32x32, 10 classes)
    """
    arrangement = {"size": size, "fit": fit, "test": test, "split_seed": split_seed}
    there = locate(name, root, **arrangement, **parameters)
    there.check_split(split)
    decoded = there.decoded(split)
    return ImageSet(
        name,
        decoded.images,
        decoded.labels,
        decoded.classes,
        statistics=there.statistics,
        flip=there.source.flip,
        fingerprint=there.fingerprint(split),
        notes=[*there.notes, *decoded.notes],
        reload=(partial(load_images, **there.arrangement.arrangement, **there.parameters), (name, split, there.root)),
    )


def fingerprint(name: str, split: str | None = None, root: Place = None, **settings: Any) -> str:
    """A digest of a data set's content, 64 hex digits, the same on every machine and for every root.

    It is the sha256 of the source's name, version (of a plugin: the digest of its file), parameters, file names (within
    the root) and file contents, and of what :func:`load_images` is told of size and test split. It is cached under
    path, size and time of the files, so later calls read no content. A missing archive that can be downloaded is
    downloaded first.

    Args:
        name: a key of ``fusiondistill.SOURCES``.
        split: "train" or "test": the value that `load_images(name, split, root).fingerprint` has; None: one for both.
        root, settings: as for :func:`load_images`.

    Raises:
        DataError: the name or split is unknown, or a file is missing.
        ValueError: an unknown parameter, or one of a wrong type or out of range.
    """
    there = locate(name, root, **settings)
    if split is None:
        return there.whole
    there.check_split(split)
    return there.fingerprint(split)


def locate(name: str, root: Place = None, **settings: Any) -> Located:
    """Find the files of a data set; decodes nothing.

    Args:
        name, root, settings: as for :func:`load_images`.

    Raises:
        DataError: the name is unknown, a file is missing, or there is a test split and one is to be cut off.
        ValueError: an unknown parameter, or one of a wrong type or out of range.
    """
    if name not in SOURCES:
        raise unknown(SOURCES.kind, name, SOURCES)
    source, own = SOURCES[name], Arrangement.model_fields
    try:
        arrangement = Arrangement(**{key: value for key, value in settings.items() if key in own})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'][:1]))} of the data set {name!r}: {first['msg']}") from None
    parameters = source.checked({key: value for key, value in settings.items() if key not in own})
    return Located(source, _absolute(root), parameters, arrangement)


def _absolute(root: Place) -> Root:
    """The root as absolute paths, since a worker has another current folder than the process that sends it the root."""
    if isinstance(root, list | tuple):
        return [Path(item).expanduser().absolute() for item in root]
    return None if root is None else Path(root).expanduser().absolute()


@dataclass(frozen=True)
class Located:
    """A data set whose files are found: its source, root and parameters, and what is done to its images."""

    source: Source
    root: Root
    parameters: dict[str, Any]
    arrangement: Arrangement

    def __post_init__(self) -> None:
        if self.arrangement.test is not None and "test" in self.own_splits:
            where = f" ({self.root})" if isinstance(self.root, Path) else ""
            raise DataError(
                f"data.test: {self.source.name}{where} has a test split, so none is cut off the training images. Leave "
                "data.test out."
            )

    @cached_property
    def files(self) -> dict[str, Path]:
        """The files by their names in the source, of all splits."""
        return self.source.locate(self.root, self.parameters, cut=self.arrangement.test is not None)

    @property
    def own_splits(self) -> tuple[str, ...]:
        """The splits that the files have."""
        return self.source.splits(self.files)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that can be loaded, in the order of :data:`SPLITS`."""
        own = self.own_splits
        return tuple(one for one in SPLITS if one in own or (one == "test" and self.arrangement.test is not None))

    @property
    def notes(self) -> tuple[str, ...]:
        """What users should know of how the files were found."""
        return tuple(getattr(self.files, "notes", ()))

    def check_split(self, split: str) -> None:
        """Raise DataError where there is no such split. That the test split is missing, the source says best."""
        if split not in SPLITS or (split == "validation" and split not in self.own_splits):
            known = [one for one in self.splits if one != "validation"] if split == "validation" else SPLITS
            told = " A validation split is cut off by `.holdout(fraction, seed)`."
            raise unknown("split", split, known, told)

    @cached_property
    def known_by(self) -> str:
        """The files' :func:`signature`."""
        return signature(self.source, self.files, self.parameters)

    @cached_property
    def whole(self) -> str:
        """The digest of the set's content and arrangement."""
        return self._digest(self.arrangement.arrangement)

    def _digest(self, arrangement: dict[str, Any]) -> str:
        content = content_digest(self.source, self.files, self.parameters, self.known_by)
        told = json.dumps(arrangement, sort_keys=True)
        return hashlib.sha256(f"{content}\0{told}".encode()).hexdigest() if arrangement else content

    def fingerprint(self, split: str) -> str:
        """The digest of one split."""
        return hashlib.sha256(f"{self.whole}\0{split}".encode()).hexdigest()

    def decoded(self, split: str) -> Decoded:
        """A split as the cache holds it, decoded and resized first where it is not there."""
        cut = self.arrangement.test is not None and split != "validation"
        return self._stored(split, self.whole, cut)

    def _stored(self, split: str, digest: str, cut: bool) -> Decoded:
        folder = self._entry(split, digest)
        resizing = to_be_resized() if self.arrangement.size else contextlib.nullcontext()
        with resizing:
            return open_or_decode(folder, partial(self._part if cut else self._read, split))

    def _entry(self, split: str, digest: str) -> Path:
        return cache_folder() / "decoded" / f"{self.source.name}-{split}-{digest[:32]}-{RULES}"

    def _read(self, split: str) -> Contents:
        """The source's contents. After the last row the files are checked against the fingerprint again."""
        source, own, size = self.source, "train" if split == CUT else split, self.arrangement.size
        contents: object = source.function(self.files, own, **self.parameters)
        if not isinstance(contents, tuple) or len(contents) not in (2, 3):
            raise source.gave(f"must return Contents(classes, rows), not {type(contents).__name__}")
        classes, rows, notes = Contents(*contents)
        resizer = Resizer(size, self.arrangement.fit) if size else None
        said: list[str] = []

        def checked() -> Iterator[Row]:
            yield from resizer.rows(rows) if resizer else rows
            if signature(source, self.files, self.parameters) != self.known_by:
                raise DataError(
                    f"the files of {source.name} changed while they were read: "
                    f"{', '.join(str(path) for path in list(self.files.values())[:3])}. Try again."
                )
            said.extend([*notes, *(resizer.notes(own) if resizer else ())])

        return Contents([escaped(name) if isinstance(name, str) else name for name in classes], checked(), said)

    def _part(self, split: str) -> Contents:
        """The training or the test split of a set that has no test split."""
        told, share, seed = self.arrangement, self.arrangement.test or 0.0, self.arrangement.split_seed
        uncut = {key: value for key, value in told.arrangement.items() if key not in ("test", "split_seed")}
        found = self._stored(CUT, self._digest({**uncut, "whole": True}), cut=False)
        in_test = cut_off(found.labels, content_of(found.images), len(found.classes), share, seed)
        chosen = (in_test if split == "test" else ~in_test).nonzero().flatten().tolist()
        rows = (
            Row(found.images[row].permute(1, 2, 0).numpy(), int(found.labels[row]), f"image {row}") for row in chosen
        )
        single = [name for name, n in zip(found.classes, found.labels.bincount().tolist(), strict=False) if n == 1]
        notes = [
            *found.notes,
            f"data.test: {int(in_test.sum()):,} of {counted(len(in_test), 'training image')} cut off as the test "
            f"split, class by class (split_seed {seed}); images with equal pixels stay on one side",
        ]
        if single:
            notes.append(f"data.test: classes of one image, which stays for training: {', '.join(single[:10])}")
        return Contents(found.classes, rows, notes)

    def statistics(self) -> Statistics:
        """Mean and std: published, or computed once on the training split and cached beside its pixels."""
        source = self.source
        if source.mean is not None and source.std is not None:
            return source.mean, source.std
        memo = self._entry("train", self.whole) / "statistics.json"
        if known := recalled(memo):
            return tuple(known["mean"]), tuple(known["std"])
        training = load_images(source.name, "train", self.root, **self.arrangement.arrangement, **self.parameters)
        mean, std = channel_statistics(training.images)
        if training.fingerprint == self.fingerprint("train"):
            remember(memo, {"mean": mean, "std": std})
        return mean, std
