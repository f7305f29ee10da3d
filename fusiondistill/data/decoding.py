"""Decodes one image (PNG, JPEG, BMP or WebP bytes) to pixels, within stated bounds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fusiondistill.data.errors import DataError

__all__ = ["FORMATS", "MAX_FILE_BYTES", "MAX_PIXELS", "decode_image", "opened", "read_bounded"]

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
"""Pillow's other decoders are never called."""

MAX_PIXELS = 2048 * 2048
"""Images larger than this are refused by their header, before a pixel is decoded. The networks here see 16 to 224
pixels a side; this leaves a factor of nine and costs 12.6 MB at most."""

MAX_FILE_BYTES = 64 * 2**20
"""Encoded images, annotation files and archive members larger than this are refused before they are read."""


@contextmanager
def opened(data: bytes, where: str, most_pixels: int = MAX_PIXELS) -> Iterator[Any]:
    """One image as a Pillow image, with its header read and its pixels not yet.

    Args:
        data: the bytes of a PNG, JPEG, BMP or WebP file.
        where: the file and row or member, for the message.
        most_pixels: the most pixels that it may have.

    Raises:
        DataError: at the start or in the block: the bytes are no such image, are cut short, have too many pixels, or
            more than 8 bits per channel (which would be clipped, not scaled).
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > most_pixels:
                raise DataError(
                    f"{where}: declares {width}x{height} pixels, more than the limit of {most_pixels:,}. "
                    "Resize the images first."
                )
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{where}: has more than 8 bits per channel (Pillow mode {image.mode}). "
                    "Convert the images to 8 bits first."
                )
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: declares far more than {most_pixels:,} pixels. Resize the images first.") from error
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged bytes
        reason = "no PNG, JPEG, BMP or WebP image" if isinstance(error, Image.UnidentifiedImageError) else error
        raise DataError(f"{where}: cannot be decoded ({reason}). Fetch the file again, or leave it out.") from error


def decode_image(data: bytes, where: str) -> np.ndarray:
    """Decode one image.

    Args:
        data, where: as for :func:`opened`.

    Returns:
        uint8 [H, W, 3], RGB 0..255: grey is repeated, a palette is looked up, an alpha channel is dropped.

    Raises:
        DataError: as :func:`opened`.
    """
    with opened(data, where) as image:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def read_bounded(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a file no larger than `limit`; DataError if it is missing, unreadable or larger."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if len(data) > limit:
        raise DataError(f"{path}: is larger than the limit of {limit:,} bytes for one file.")
    return data
