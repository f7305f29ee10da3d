"""Data sets: a file for each source of images, and the registry to which users add their own.

A source is a function ``(files, split, **parameters) -> Contents``. ``files`` maps names inside the source to paths,
``split`` is ``"train"`` or ``"test"`` (or ``"validation"``, see ``by_split``). It gives the class names and yields the
images one by one, each a :class:`Row`. It never writes, never caches, never resizes and never checks what all sources
have in common (labels inside the classes, one image size): :mod:`fusiondistill.data` does that for all of them. The
same files and parameters must always give the same images. Importing this package does not import torch.

Example:
    >>> import numpy as np
    >>> @SOURCES.register("flat", mean=(128, 128, 128), std=(64, 64, 64), replace=True)
    ... def flat(files, split, *, count: int = 4):
    ...     "Flat grey images, dark and bright."
    ...     levels = (64, 192)
    ...     grey = lambda i: np.full((8, 8, 3), levels[i % 2], np.uint8)
    ...     return Contents(["dark", "bright"], (Row(grey(i), i % 2, f"image {i}") for i in range(count)))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusiondistill.data.errors import DataError
from fusiondistill.data.source import Contents, Files, Root, Row
from fusiondistill.registry import Entry, Registry

__all__ = ["SOURCES", "Contents", "DataError", "Files", "Root", "Row", "Source", "below"]

Locate = Callable[..., dict[str, Path]]
Reader = Callable[..., Contents]


def below(root: Root) -> dict[str, Path]:
    """The files at a place, by their names below it: the default of a source that has no other rule.

    Args:
        root: a folder, with its files and those of folders inside, hidden ones left out; a file; several of either;
            or None: no file.

    Raises:
        DataError: there is no such file or folder, a folder is empty, or two files have the same name.
    """
    found: dict[str, Path] = {}
    for item in [] if root is None else root if isinstance(root, list) else [root]:
        base = Path(item).expanduser()
        if not base.exists():
            raise DataError(f"{base}: there is no such file or folder.")
        inside = [p for p in base.rglob("*") if p.is_file()] if base.is_dir() else [base]
        named = {(p.relative_to(base).as_posix() if base.is_dir() else p.name): p for p in inside}
        named = {n: p for n, p in named.items() if not any(part.startswith(".") for part in n.split("/"))}
        if not named:
            raise DataError(f"{base}: holds no file.")
        if twice := sorted(named.keys() & found.keys()):
            raise DataError(f"{named[twice[0]]}: another file of the data set has the same name.")
        found |= named
    return dict(sorted(found.items()))


class Source(Entry):
    """One kind of data set; ``function`` reads a split of it: (files, split, **parameters) -> :class:`Contents`."""

    @property
    def flip(self) -> bool:
        """Whether its images may be mirrored in training."""
        return bool(self.facts["flip"])

    @property
    def mean(self) -> tuple[float, ...] | None:
        """The published mean per channel, 0..255 scale; None: computed on the training split."""
        return self.facts["mean"]

    @property
    def std(self) -> tuple[float, ...] | None:
        """The published standard deviation per channel, 0..255 scale; None: computed on the training split."""
        return self.facts["std"]

    @property
    def needs_root(self) -> str:
        """What the root must be, for a source that needs one; else ""."""
        return str(self.facts["needs_root"])

    def locate(self, root: Root, parameters: Mapping[str, Any] | None = None, *, cut: bool = False) -> dict[str, Path]:
        """The files that make up the source, all splits. Decodes nothing; may download a public archive.

        Args:
            root: where they are.
            parameters: of the source; those that its ``locate`` takes by name say which files are meant.
            cut: the test split is cut off the training images, so that no other split stands in for it; said to a
                ``locate`` that takes it by name.

        Raises:
            DataError: nothing is found, or there is no root and the source needs one.
        """
        if root is None and self.needs_root:
            raise DataError(f"`{self.name}` needs a root: {self.needs_root}.")
        locate = self.facts["locate"]
        taken = inspect.signature(locate).parameters
        known = {**(parameters or {}), **({"cut": True} if cut else {})}
        found: dict[str, Path] = locate(root, **{k: v for k, v in known.items() if k in taken})
        return found

    def splits(self, files: Files) -> tuple[str, ...]:
        """The splits that some files hold, of train, validation and test, in this order.

        Sources whose files begin with a split's name say it by that; all
        others have train and test.
        """
        if not self.facts["by_split"]:
            return ("train", "test")
        there = {name.partition("/")[0] for name in files}
        return tuple(split for split in ("train", "validation", "test") if split in there)

    def notes(self) -> tuple[str, ...]:
        """What the root must be, for ``fusiondistill list``."""
        return (f"root: {self.needs_root}",) if self.needs_root else ()


class Sources(Registry[Source]):
    """The registry of data sources."""

    entry = Source

    def register(  # type: ignore[override]  # what it says of its images is no fact among others
        self,
        name: str,
        *,
        locate: Locate = below,
        flip: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        needs_root: str = "",
        by_split: bool = False,
        version: int = 1,
        source: str = "",
        replace: bool = False,
    ) -> Callable[[Reader], Reader]:
        """Make a reading function a data source; ``data: {name: NAME}`` in a config then names it.

        Args:
            name: lower-case letters, digits and underscores, a letter first.
            locate: root -> the files that make up the source, all splits, by names that are the same on every machine.
                It gets those of the source's parameters that it takes by name. Default: :func:`below`, the files at
                the root; without a root the source has no files.
            flip: may its images be mirrored in training?
            mean, std: the published figures per channel, 0..255 scale; None: computed on the training split.
            needs_root: what the root must be, in words, for a source that cannot do without one.
            by_split: the names of its files begin with ``train/``, ``validation/`` or ``test/``, and say so which
                splits there are. The function may then be called with the split ``validation``, and a set without a
                test split can have one cut off (``data.test``). All others have ``train`` and ``test``.
            version, source, replace: see :meth:`fusiondistill.registry.Registry.register`, which also says how
                parameters are written.

        The function is called as ``function(files, split, **parameters)`` and returns :class:`Contents`; the module
        says more.

        Raises:
            ValueError: as :meth:`fusiondistill.registry.Registry.register`; or mean and std are not three numbers each.

        Example:
            A file ``mine.py``, which the config names under ``plugins: [mine.py]``; then ``data: {name: arrays, root:
            FOLDER}``:

            >>> import numpy as np
            >>> from fusiondistill.sources import SOURCES, Contents, Row
            >>> @SOURCES.register("arrays", needs_root="a folder of <split>/<class>.npy")
            ... def arrays(files, split):
            ...     "Arrays uint8 [N, H, W, 3], a file for each class."
            ...     names = sorted(name for name in files if name.startswith(f"{split}/"))
            ...     rows = (Row(x, label, name) for label, name in enumerate(names) for x in np.load(files[name]))
            ...     return Contents([name.split("/")[1].removesuffix(".npy") for name in names], rows)
        """
        for what in (mean, std):
            if what is not None and len(what) != 3:
                raise ValueError(f"mean and std of the data source {name!r}: expected three numbers each, got {what}")
        if (mean is None) != (std is None):
            raise ValueError(f"the data source {name!r} has a mean or a std alone: give both, or neither")
        published = (None, None) if mean is None or std is None else (tuple(mean), tuple(std))
        known = {"locate": locate, "flip": flip, "mean": published[0], "std": published[1]}
        return super().register(
            name, version=version, source=source, replace=replace, needs_root=needs_root, by_split=by_split, **known
        )


SOURCES = Sources(
    "data source",
    __name__,
    first=("digits", "cifar10", "cifar100", "tiny_imagenet", "parquet", "folder", "table"),
    takes=("files", "split"),
    reserved=frozenset(
        {"name", "root", "train_images", "test_images", "validation", "mean", "std", "flip", "fingerprint", "held_out"}
        | {"holdout_seed", "validation_split", "images", "labels", "size", "fit", "test", "split_seed"}
    ),
)
"""Every data source by name."""
