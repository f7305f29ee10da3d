"""Image degradations: exact to the pixel, in batches, on any device.

``degrade(images, "blur", levels, seed=0)`` is the whole interface. The paper's four (:data:`PAPER_DEGRADATIONS`) are
what training and evaluation use unless told otherwise; the others are *unseen*: for evaluation outside the training
distribution. :func:`register` adds one's own. :func:`reference_degrade` is the slow twin through imagedegrade.
"""

from fusiondistill.degradations import (  # noqa: F401  the order here is the order of DEGRADATIONS
    blur,
    jpeg,
    noise,
    saltpepper,
)
from fusiondistill.degradations.operator import degrade
from fusiondistill.degradations.reference import reference_degrade
from fusiondistill.degradations.registry import DEGRADATIONS, PAPER_DEGRADATIONS, Degradation, find, register

__all__ = [
    "DEGRADATIONS",
    "PAPER_DEGRADATIONS",
    "Degradation",
    "degrade",
    "find",
    "reference_degrade",
    "register",
]
