"""The parts that all data sets share: decoding within bounds, the cache, fingerprints, and :class:`ImageSet`.

The data sets themselves are in :mod:`fusiondistill.sources`. Importing this package does not import torch; the names
that need it are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fusiondistill.data.errors import DataError

if TYPE_CHECKING:
    from fusiondistill.data.image_set import ImageSet
    from fusiondistill.data.loading import SPLITS, fingerprint, load_images
    from fusiondistill.sources import SOURCES

__all__ = ["SOURCES", "SPLITS", "DataError", "ImageSet", "fingerprint", "load_images"]

_HOMES = {
    "ImageSet": "fusiondistill.data.image_set",
    "SOURCES": "fusiondistill.sources",
    "SPLITS": "fusiondistill.data.loading",
    "fingerprint": "fusiondistill.data.loading",
    "load_images": "fusiondistill.data.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
