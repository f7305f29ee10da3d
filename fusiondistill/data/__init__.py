"""Data sets: one file per source, each giving the same thing, an :class:`ImageSet`."""

from fusiondistill.data.errors import DataError
from fusiondistill.data.image_set import ImageSet
from fusiondistill.data.registry import SOURCES, SPLITS, fingerprint, load_images

__all__ = ["SOURCES", "SPLITS", "DataError", "ImageSet", "fingerprint", "load_images"]
