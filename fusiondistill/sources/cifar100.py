"""CIFAR-100 with fine labels, downloaded or read in place."""

from __future__ import annotations

from functools import partial

from fusiondistill.data.cifar import Layout, locate, read
from fusiondistill.sources import SOURCES, Contents, Files

__all__ = ["cifar100"]

LAYOUT = Layout(
    torchvision="CIFAR100",
    folder="cifar-100-python",
    train=("train",),
    test=("test",),
    meta="meta",
    labels="fine_labels",
    names="fine_label_names",
)


@SOURCES.register(
    "cifar100",
    locate=partial(locate, LAYOUT),
    mean=(129.3, 124.1, 112.4),
    std=(68.2, 65.4, 70.4),
    source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)
def cifar100(files: Files, split: str) -> Contents:
    """CIFAR-100 with fine labels, downloaded or read in place."""
    return read(LAYOUT, files, split)
