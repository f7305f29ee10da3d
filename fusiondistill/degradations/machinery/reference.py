"""The reference: one image at a time through imagedegrade, that is Pillow, scipy and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusiondistill.degradations import PAPER_DEGRADATIONS, find
from fusiondistill.degradations.machinery.operator import PROTOCOLS
from fusiondistill.degradations.saltpepper import SALT

__all__ = ["reference_degrade"]


def reference_degrade(
    image: np.ndarray,
    name: str,
    level: int,
    *,
    protocol: str = "standard",
    rng: np.random.Generator | int | None = None,
) -> np.ndarray:
    """Degrade one image with the package that the paper used: slow, and what the fast path is tested against.

    Args:
        image: uint8 [H,W,3], RGB, 0..255; never written to.
        name: one of the paper's four; imagedegrade knows no others.
        level: one of ``DEGRADATIONS[name].levels``.
        protocol: ``"standard"`` or ``"paper"`` (salt of value 1).
        rng: where the noise comes from; default: fresh randomness. imagedegrade draws from numpy's global generator,
            which is seeded for the call and put back after it, so calls in several threads get into each other's way.

    Returns:
        New uint8 [H,W,3].

    Raises:
        ValueError: as :func:`degrade`, and for a degradation that imagedegrade does not have.
        ImportError: imagedegrade is not installed.
    """
    levels = find(name).levels
    if name not in PAPER_DEGRADATIONS:
        raise ValueError(f"imagedegrade has no {name!r}; the reference knows {', '.join(PAPER_DEGRADATIONS)}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError("image: expected a uint8 array of shape [H, W, 3]")
    if level not in levels:
        raise ValueError(f"level {level} of {name!r} is out of range {levels[0]}..{levels[-1]}")
    global_state = np.random.get_state()  # noqa: NPY002  imagedegrade uses no other
    np.random.seed(np.random.default_rng(rng).integers(2**32))  # noqa: NPY002
    try:
        return apply_package(image, name, int(level), SALT[protocol])
    finally:
        np.random.set_state(global_state)  # noqa: NPY002


def apply_package(image: np.ndarray, name: str, level: int, salt: int = 255) -> np.ndarray:
    """The package's own operators, with the next numbers of numpy's global generator: what the benchmark times."""
    import imagedegrade.np as package

    out: Any
    if name == "jpeg":
        out = image if level == 101 else package.jpeg(image, level)
    elif name == "blur":
        out = package.blur(image, level / 10)
    elif name == "noise":
        out = np.clip(package.noise(image, level), 0, 255)
    else:
        out = package.saltpepper(image, level / 100, intensity_range=(0, salt))
    return np.array(out).astype(np.uint8)
