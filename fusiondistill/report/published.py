"""The published tables (FusionDistill, ResNet-56): accuracies in percent, as printed, averages included."""

from __future__ import annotations

__all__ = ["AVERAGE", "DEGRADATIONS", "MODEL", "NETWORK", "has_published", "published"]

NETWORK = "ResNet-56"
MODEL = "cifar_resnet56"  # our name of that network
AVERAGE = "avg"  # in place of a degradation: the column of averages

DEGRADATIONS = ("jpeg", "blur", "noise", "saltpepper")  # what its averages are over

_COLUMNS = (*DEGRADATIONS, AVERAGE)
_TABLES = {
    "cifar100": {
        "oracle": (63.4, 58.2, 65.4, 74.1, 65.3),
        "ensemble": (59.3, 25.3, 43.6, 58.7, 46.7),
        "scratch": (59.1, 54.3, 61.0, 66.0, 60.1),
        "vanilla": (62.2, 56.0, 63.8, 70.2, 63.1),
        "modelsoups": (1.1, 1.0, 1.2, 1.0, 1.1),
        "fusing": (62.3, 56.4, 64.1, 70.5, 63.3),
        "fusiondistill": (64.5, 58.6, 66.4, 73.7, 65.8),
    },
    "tiny_imagenet": {
        "oracle": (56.3, 50.3, 57.7, 60.6, 56.2),
        # Its average is printed as 35.5; the four cells give 41.5.
        "ensemble": (53.1, 17.4, 45.4, 49.9, 35.5),
        "scratch": (54.0, 48.2, 55.3, 58.2, 53.9),
        "vanilla": (55.2, 48.1, 56.6, 59.7, 54.9),
        "modelsoups": (0.5, 0.5, 0.5, 0.5, 0.5),
        "fusing": (54.2, 47.1, 55.2, 58.8, 53.8),
        "fusiondistill": (56.7, 48.5, 58.2, 61.9, 56.3),
    },
}


def published(dataset: str, method: str, degradation: str) -> float | None:
    """The published accuracy in percent, or None where the paper has no such cell.

    ``degradation`` is a degradation's name, or :data:`AVERAGE` for the printed average.

    >>> published("cifar100", "fusiondistill", "jpeg")
    64.5
    """
    row = _TABLES.get(dataset, {}).get(method)
    return row[_COLUMNS.index(degradation)] if row and degradation in _COLUMNS else None


def has_published(dataset: str) -> bool:
    """Whether the paper has a table for this data set."""
    return dataset in _TABLES
