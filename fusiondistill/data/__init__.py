"""The parts that all data sets share: decoding within bounds, the cache, fingerprints, and :class:`ImageSet`.

The data sets themselves are in :mod:`fusiondistill.sources`. Importing this package does not import torch; the names
that need it are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusiondistill.data.errors import DataError
from fusiondistill.lazy import lazily

if TYPE_CHECKING:
    from fusiondistill.data.image_set import ImageSet
    from fusiondistill.data.loading import SPLITS, fingerprint, load_images
    from fusiondistill.sources import SOURCES

__all__ = ["SOURCES", "SPLITS", "DataError", "ImageSet", "fingerprint", "load_images"]

_HOMES = {
    "ImageSet": "data.image_set",
    "SOURCES": "sources",
    "SPLITS": "data.loading",
    "fingerprint": "data.loading",
    "load_images": "data.loading",
}


__getattr__ = lazily(__name__, "fusiondistill", _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
