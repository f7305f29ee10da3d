"""The images of a stage, kept in the process for the stages that follow."""

from __future__ import annotations

import socket
from functools import lru_cache

from fusiondistill.data import DataError, ImageSet, fingerprint, load_images
from fusiondistill.data.loading import locate
from fusiondistill_runner.planning.specs import DataSpec
from fusiondistill_runner.working.context import DataSet, Place

__all__ = ["load_all", "load_data", "load_split", "splits"]


@lru_cache(maxsize=4)
def load_split(data: DataSet, split: str) -> ImageSet:
    """All images of a split; the first call on a node fetches and decodes them into the node's cache.

    Raises:
        DataError: they are not here, or not those of the expected fingerprint; names the node and says what to do.
    """
    node = socket.gethostname()
    try:
        found = fingerprint(data.name, root=data.root, **data.parameters)
    except DataError as error:
        raise DataError(
            f"the data set {data.name!r} is not on the node {node}: {error} Every node needs it: give a data.root that "
            "all nodes share, or copy the files to one place on each; `fusiondistill cluster check CONFIG` asks all"
        ) from error
    if found != data.fingerprint:
        raise DataError(
            f"the data set {data.name!r} on the node {node} is not the one that this run was planned with "
            f"(fingerprint {found[:12]}, planned {data.fingerprint[:12]}): copy the same files to every node"
        )
    return load_images(data.name, split, data.root, **data.parameters)


def load_all(data: DataSet) -> dict[str, ImageSet]:
    """All splits that a data set has.

    Raises:
        DataError: as :func:`load_split`.
    """
    found = {"train": load_split(data, "train")}
    there = locate(data.name, data.root, **data.parameters).splits
    return {**found, **{split: load_split(data, split) for split in there if split != "train"}}


@lru_cache(maxsize=8)
def load_data(data: DataSpec, root: Place, split: str) -> ImageSet:
    """The images of a split, cut down to what the run uses; the same object again within a process."""
    images = load_split(DataSet.of(data, root), split)
    if data.mean or data.std:
        images = images.normalised_by(data.mean or images.mean, data.std or images.std)
    wanted = data.limit(split)
    return images if wanted is None or wanted >= len(images) else images.take(wanted)


@lru_cache(maxsize=8)
def splits(data: DataSpec, root: Place, select: str) -> tuple[ImageSet, ImageSet | None]:
    """(training images, images that the epoch is chosen on)."""
    images = load_data(data, root, "train")
    held_out = None
    if data.validation_split:
        held_out = load_data(data, root, "validation")
    if data.held_out:
        images, held_out = images.holdout(data.held_out, data.holdout_seed)
    if select == "test":
        held_out = load_data(data, root, "test")
    return images, held_out
