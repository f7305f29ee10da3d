"""Loss terms."""

from fusiondistill.registry import Registry

__all__ = ["LOSSES"]

LOSSES = Registry("loss term", __name__)
