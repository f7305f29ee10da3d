"""Image degradations: exact to the pixel, in batches, on any device.

``degrade(images, "blur", levels, seed=0)`` is the whole interface. The paper's four (:data:`PAPER_DEGRADATIONS`) are
what training and evaluation use unless told otherwise; the others are *unseen*: for evaluation outside the training
distribution. :func:`register` and :func:`compose` add one's own. :func:`reference_degrade` is the slow twin through
imagedegrade.
"""

# Importing a module registers its degradation, and the order here is the order of DEGRADATIONS.
# isort: off
from fusiondistill.degradations import jpeg, blur, noise, saltpepper  # noqa: F401
from fusiondistill.degradations import motion_blur, defocus, pixelate, contrast, brightness  # noqa: F401
from fusiondistill.degradations import speckle, impulse, haze  # noqa: F401

# isort: on
from fusiondistill.degradations.composition import compose
from fusiondistill.degradations.grid import degrade_grid
from fusiondistill.degradations.operator import degrade
from fusiondistill.degradations.reference import reference_degrade
from fusiondistill.degradations.registry import DEGRADATIONS, PAPER_DEGRADATIONS, Degradation, find, register

__all__ = [
    "DEGRADATIONS",
    "PAPER_DEGRADATIONS",
    "Degradation",
    "compose",
    "degrade",
    "degrade_grid",
    "find",
    "reference_degrade",
    "register",
]
