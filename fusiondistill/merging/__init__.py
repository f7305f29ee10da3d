"""Merging methods."""

from fusiondistill.registry import Registry

__all__ = ["MERGING"]

MERGING = Registry("merging method", __name__)
