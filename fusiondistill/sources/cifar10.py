"""CIFAR-10, downloaded or read in place."""

from __future__ import annotations

from functools import partial

from fusiondistill.data.cifar import Layout, locate, read
from fusiondistill.sources import SOURCES, Contents, Files

__all__ = ["cifar10"]

LAYOUT = Layout(
    torchvision="CIFAR10",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    labels="labels",
    names="label_names",
)


@SOURCES.register(
    "cifar10",
    locate=partial(locate, LAYOUT),
    mean=(125.3, 123.0, 113.9),
    std=(63.0, 62.1, 66.7),
    source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)
def cifar10(files: Files, split: str) -> Contents:
    """CIFAR-10, downloaded or read in place."""
    return read(LAYOUT, files, split)
