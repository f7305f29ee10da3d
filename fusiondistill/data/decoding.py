"""Decodes one image to pixels of 8 bits, within stated bounds and by stated rules.

The rules, in their order. Of a file with several frames the first counts. More than 8 bits are scaled by their full
range (:mod:`fusiondistill.data.depth`). The image is turned upright by its EXIF orientation. Transparent pixels are
laid over the background. Grey is repeated, a palette is looked up, CMYK is converted without a colour profile.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusiondistill.data.depth import Deep, deep_values, in_planes, is_deep
from fusiondistill.data.errors import BrokenImage, DataError
from fusiondistill.data.orientation import upright

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "FORMATS", "KINDS", "MAX_FILE_BYTES", "MAX_PIXELS", "RULES", "SUFFIXES", "BrokenImage", "Decoded", "decode",
    "decode_image", "read_bounded", "to_be_resized",
]  # fmt: skip

RULES = 3
"""The version of these rules. The cache of decoded images is keyed by it."""

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
"""Pillow's other decoders are never called."""

KINDS = "PNG, JPEG, BMP, WebP, TIFF, GIF, PNM, AVIF or JPEG 2000"
"""The usual names of the formats."""

_OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""Formats that Pillow may have been built without -> its name of their decoder."""

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "bmp", "dib", "webp", "tif", "tiff", "gif"),
        *("ppm", "pgm", "pbm", "pnm", "avif", "jp2", "j2k", "jpf", "jpx", "j2c", "jpc"),
    )
)
"""Of the files that hold such images, in lower case."""

MAX_PIXELS = 2048 * 2048
"""Images larger than this are refused by their header, before a pixel is decoded. The networks here see 16 to 224
pixels a side; this leaves a factor of nine and costs 12.6 MB at most."""

MAX_PIXELS_TO_RESIZE = 64 * 2**20
"""The same where images are resized one by one: photos, 200 MB at most."""

MAX_DEEP_PIXELS_TO_RESIZE = 16 * 2**20
"""The same of images with more than 8 bits a channel, which take eight bytes a value."""

_to_resize: ContextVar[bool] = ContextVar("to_resize", default=False)

MAX_FILE_BYTES = 64 * 2**20
"""Encoded images, annotation files and archive members larger than this are refused before they are read."""

WHITE = (255, 255, 255)


@contextmanager
def to_be_resized() -> Iterator[None]:
    """Within the block images may be as large as photos, since each is resized as soon as it is decoded."""
    token = _to_resize.set(True)
    try:
        yield
    finally:
        _to_resize.reset(token)


@dataclass(frozen=True)
class Decoded:
    """One image.

    Attributes:
        pixels: uint8 [H, W, 3], RGB 0..255.
        deep: whether it had more than 8 bits a channel.
        largest: the largest value, before it was scaled, of one that is taken to fill 16 bits; else None.
        several: whether the file has further frames or pages, which were not read.
        mode: how the file stores its colours, in Pillow's words: ``RGB``, ``L`` (grey), ``RGBA``, ``P``, ``CMYK``, ...
    """

    pixels: np.ndarray
    deep: bool = False
    largest: int | None = None
    several: bool = False
    mode: str = ""


def decode_image(data: bytes, where: str, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Decode one image.

    Args:
        data: the bytes of a file of one of :data:`KINDS`.
        where: the file and row or member, for the message.
        background: what transparent pixels are laid over, RGB 0..255.

    Returns:
        uint8 [H, W, 3], RGB 0..255; the module says by which rules.

    Raises:
        DataError: as :func:`decode`.
    """
    return decode(data, where, background=background).pixels


def decode(
    data: bytes,
    where: str,
    *,
    background: tuple[int, int, int] = WHITE,
    bits: int | None = None,
    most_pixels: int | None = None,
) -> Decoded:
    """Decode one image, and say what a whole set is checked for.

    Args:
        data, where, background: as for :func:`decode_image`.
        bits: how many bits the values of images with more than 8 bits fill; None: all that their format has.
        most_pixels: the most pixels that it may have; None: the limit of data sets.

    Raises:
        BrokenImage: the bytes are no such image, are cut short, or are of a kind that has no stated rule.
        DataError: too many pixels, or values that fill more bits than were said.
    """
    limit = most_pixels or (MAX_PIXELS_TO_RESIZE if _to_resize.get() else MAX_PIXELS)
    with _opened(data, where, limit) as image:
        several, mode = _several(image), image.mode
        _check_exact(image, data, where)
        if is_deep(image):
            _check_pixels(image, where, most_pixels or min(limit, MAX_DEEP_PIXELS_TO_RESIZE))
        deep = deep_values(image, lambda: _header(data), bits, where)
        if deep is not None:
            return Decoded(_flattened(deep, background), True, deep.largest, several, mode)
        _scale_clear_value(image)
        return Decoded(_eight_bits(upright(image), background), several=several, mode=mode)


def _check_exact(image: Any, data: bytes, where: str) -> None:
    """Raise BrokenImage where Pillow gives other values than the file has, and no second look can tell them."""
    if in_planes(image) and image.mode == "LA":
        raise BrokenImage(f"{where}: is a TIFF with grey and transparency in planes. Save it as PNG first.")
    if image.format == "JPEG2000" and image.mode != "I;16" and (bits := _bits_of_jpeg_2000(data)) > 8:
        raise BrokenImage(f"{where}: is a colour JPEG 2000 of {bits} bits a channel. Save it as PNG or TIFF first.")


def _bits_of_jpeg_2000(data: bytes) -> int:
    """The most bits of a channel, as the marker of sizes (SIZ) says; 0 where there is none."""
    start = data.find(b"\xff\x4f\xff\x51")
    channels = int.from_bytes(data[start + 40 : start + 42]) if start >= 0 else 0
    return max(((bits & 127) + 1 for bits in data[start + 42 : start + 42 + 3 * channels : 3]), default=0)


_FULL = {"L;2": 3, "L;4": 15}
"""Pillow's layout of grey values of fewer than 8 bits -> the largest value."""


def _scale_clear_value(image: Any) -> None:
    """Scale the value that a grey PNG calls transparent as Pillow scales the pixels, which it does not do itself."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and image.tile and isinstance(clear, int):
        layout = image.tile[0][3]
        full = _FULL.get(layout[0] if isinstance(layout, tuple) else layout)
        if full:
            image.info["transparency"] = clear * 255 // full


def _several(image: Any) -> bool:
    """Whether a file has further frames or pages. A camera's second picture (MPO) is a thumbnail and does not count."""
    if image.format != "TIFF":
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    try:
        return bool(image.n_frames > 1)
    except Exception:  # the list of pages is damaged, and the first is there
        return False


@cache
def _readable() -> tuple[str, ...]:
    """The formats that the installed Pillow decodes."""
    from PIL import features

    there = {*features.get_supported_modules(), *features.get_supported_codecs()}
    return tuple(one for one in FORMATS if _OPTIONAL.get(one, "jpg") in there)


def _header(data: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=_readable())


@contextmanager
def _opened(data: bytes, where: str, most_pixels: int) -> Iterator[Image]:
    """One image with its header read and its pixels not yet; errors of the block become a DataError."""
    from PIL import Image

    try:
        with _header(data) as image:
            _check_pixels(image, where, most_pixels)
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: declares far more than {most_pixels:,} pixels. {_TOO_LARGE}") from error
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged bytes
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = what_it_is(data) or (_lacking(data) or _UNKNOWN if unknown else error)
        raise BrokenImage(f"{where}: cannot be decoded ({reason}). Fetch the file again, or leave it out.") from error


_TOO_LARGE = "Resize the images first, or let data.size do it (its limit is that of photos)."


def _check_pixels(image: Image, where: str, most: int) -> None:
    width, height = image.size
    if width * height > most:
        raise DataError(f"{where}: declares {width}x{height} pixels, more than the limit of {most:,}. {_TOO_LARGE}")


_UNKNOWN = f"no {KINDS} image, or a kind of these that Pillow does not read"
_BEGINNINGS = {b"ftypavif": "AVIF", b"ftypavis": "AVIF", b"jP  ": "JPEG2000", b"\xff\x51": "JPEG2000", b"WEBP": "WEBP"}
_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1")


def _lacking(data: bytes) -> str:
    """Which decoder Pillow lacks for bytes, in words; "" where that is not so."""
    if data[4:12] in _HEIC:
        return "it is a HEIC photo, which Pillow does not read: save it as JPEG"
    found = next((name for begin, name in _BEGINNINGS.items() if begin in data[2:12]), None)
    if found is None or found in _readable():
        return ""
    return f"the installed Pillow has no decoder for {found}: install another, or save it as PNG"


def what_it_is(data: bytes) -> str:
    """What bytes are that often stand in the place of an image file, in words; else ""."""
    if not data:
        return "it is empty"
    if data.startswith(b"version https://git-lfs.github.com/spec/"):
        return "it is a Git LFS pointer and not the file itself: git lfs pull fetches it"
    if data.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page, perhaps an error that was saved in the place of the file"
    return ""


def _eight_bits(image: Image, background: tuple[int, int, int]) -> np.ndarray:
    """uint8 [H, W, 3] of an image with 8 bits a channel or fewer."""
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return np.asarray(image.convert("RGB"))


def _flattened(deep: Deep, background: tuple[int, int, int]) -> np.ndarray:
    """uint8 [H, W, 3] of an image with more than 8 bits: laid over the background, then round(255 * value / range)."""
    values = deep.colours
    if deep.alpha is not None:
        below = np.asarray(background, np.float64) / 255
        values = values * deep.alpha + below * (1 - deep.alpha)
    scaled = np.floor(values * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(scaled, (*scaled.shape[:2], 3)))


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
