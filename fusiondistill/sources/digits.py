"""The embedded default: scikit-learn's handwritten digits (UCI optdigits), 1,797 real scans, no download.

8x8 grey scans with values 0..16 become 16x16 RGB: `round(value * 255 / 16)`, then Pillow's bilinear resize.
The cut is fixed: the last 40 scans of every class are the test split (400 images, exactly balanced), the rest are for
training (1,397 images, 134 to 143 per class). The scans come writer after writer, so a cut by position keeps most test
writers out of the training split, where a random cut would not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fusiondistill.data.errors import DataError
from fusiondistill.sources import SOURCES, Contents, Files, Root, Row

__all__ = ["digits"]

SIZE = 16
TEST_PER_CLASS = 40


def _locate(root: Root) -> dict[str, Path]:
    if root is not None:
        raise DataError(f"`digits` comes with scikit-learn and takes no root (given: {root}).")
    spec = importlib.util.find_spec("sklearn")  # found, not imported: that would cost a second
    if spec is None or not spec.submodule_search_locations:
        raise DataError("`digits` needs scikit-learn: pip install scikit-learn.")
    return {"digits.csv.gz": Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"}


@SOURCES.register("digits", locate=_locate, flip=False, source="scikit-learn, UCI optdigits")
def digits(files: Files, split: str) -> Contents:
    """scikit-learn's handwritten digits at 16x16, no download."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    in_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        in_test[np.flatnonzero(labels == label)[-TEST_PER_CLASS:]] = True
    chosen = np.flatnonzero(in_test == (split == "test"))
    return Contents([str(label) for label in range(10)], _rows(values, labels, chosen))


def _rows(values: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> Iterator[Row]:
    from PIL import Image

    for i in chosen:
        scan = (values[i].reshape(8, 8).astype(np.int64) * 255 + 8) // 16
        grey = Image.fromarray(scan.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        yield Row(np.asarray(grey.convert("RGB")), int(labels[i]), f"scikit-learn's digits, scan {i}")
