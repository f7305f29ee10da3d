"""Writes image files byte by byte, after the formats' specifications: no library stands between."""

from __future__ import annotations

import struct
import zlib

import numpy as np

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
"""PNG's colour types."""
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png16(values: np.ndarray, colour: int, interlaced: bool = False, clear: tuple[int, ...] = ()) -> bytes:
    """A PNG with 16 bits a channel of integers [H, W, C]; ``clear``: the colour of its tRNS chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def lines(part: np.ndarray) -> bytes:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in part) if part.size else b""

    height, width = values.shape[:2]
    parts = [values[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [values]
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, int(interlaced))
    transparent = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b""
    pixels = chunk(b"IDAT", zlib.compress(b"".join(map(lines, parts))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + transparent + pixels + chunk(b"IEND", b"")


def tiff(
    values: np.ndarray,
    order: str = "<",
    packed: bool = False,
    photometric: int | None = None,
    planes: bool = False,
    alpha: int = 2,
) -> bytes:
    """A TIFF of integers or float32 [H, W, C], one strip; ``packed``: compressed by zlib; ``planes``: one a channel.

    ``order`` is that of the bytes. The second channel of two and the fourth of four is ``alpha``: 2 unassociated, 1 the
    colours are multiplied by it; of CMYK (photometric 5) the fourth is the key.
    """
    height, width, channels = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    parts = [values[..., channel] for channel in range(channels)] if planes else [values]
    strips = [part.astype(values.dtype.newbyteorder(order)).tobytes() for part in parts]
    strips = [zlib.compress(strip) if packed else strip for strip in strips]
    strip, starts = b"".join(strips), [8 + sum(map(len, strips[:n])) for n in range(len(strips))]
    bits = struct.pack(f"{order}{channels}H", *[8 * values.dtype.itemsize] * channels)
    formats = struct.pack(f"{order}{channels}H", *[kind] * channels)
    base = 8 + len(strip)
    colours = (2 if channels >= 3 else 1) if photometric is None else photometric
    tags = [
        (256, 3, [width]), (257, 3, [height]), (258, 3, bits), (259, 3, [8 if packed else 1]), (262, 3, [colours]),
        (273, 4, starts), (277, 3, [channels]), (278, 3, [height]), (279, 4, list(map(len, strips))),
        (284, 3, [2 if planes else 1]),
        *([(338, 3, [alpha])] if channels == 2 or (channels == 4 and colours == 2) else []), (339, 3, formats),
    ]  # fmt: skip
    extra, listed = b"", struct.pack(f"{order}H", len(tags))
    for tag, type_, value in tags:
        letter = "H" if type_ == 3 else "I"
        data = value if isinstance(value, bytes) else struct.pack(f"{order}{len(value)}{letter}", *value)
        count = len(data) // (2 if type_ == 3 else 4)
        if len(data) > 4:
            place = base + len(extra)
            extra += data
            data = struct.pack(f"{order}I", place)
        listed += struct.pack(f"{order}HHI", tag, type_, count) + data.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", base + len(extra)) + strip + extra + listed + b"\0\0\0\0"
