"""One encoded image: its pixels, its bounds, its damages."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from fusiondistill.data import DataError, decoding
from fusiondistill.data.decoding import decode_image


def png(height=4, width=4, value=7) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def declared(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that declares any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, pixels, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("size", [(2049, 2048), (10_000, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_that_declares_gigapixels_is_refused_by_its_header(size):
    start = time.process_time()
    with pytest.raises(DataError, match=r"^picture 7: .*4,194,304"):
        decode_image(declared(*size), "picture 7")
    assert time.process_time() - start < 10
    with pytest.raises(DataError, match="picture 7"):  # within the limit, but the pixels are not there
        decode_image(declared(2048, 2048), "picture 7")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        png()[:-30],
        png()[:40],
        jpeg()[:-60],
        jpeg()[:100],
        b"\xff\xd8\xff\xe0" + b"\0" * 50,
    ],
)
def test_bytes_that_are_no_whole_image(data):
    with pytest.raises(DataError, match=r"^here: cannot be decoded"):
        decode_image(data, "here")


JPEG_2000 = "JPEG2000"


@pytest.mark.parametrize("kind, options", [("AVIF", {"quality": 100}), (JPEG_2000, {}), (JPEG_2000, {"no_jp2": True})])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_avif_and_jpeg_2000_are_read_like_others(kind, options, mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)).convert(mode)
    more = {"subsampling": "4:4:4"} if kind == "AVIF" else {}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options, **more)
    found = decode_image(buffer.getvalue(), "here").astype(int)
    assert np.abs(found - np.asarray(image.convert("RGB"))).max() <= (4 if kind == "AVIF" else 0)
    with pytest.raises(DataError, match=r"^here: cannot be decoded"):
        decode_image(buffer.getvalue()[:-60], "here")


def test_jpeg_2000_of_more_than_8_bits():
    x = np.random.default_rng(0).integers(0, 65536, (16, 24)).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, JPEG_2000)
    assert (decode_image(buffer.getvalue(), "here")[..., 0] == (2 * x.astype(int) + 257) // 514).all()
    Image.new("RGB", (4, 4)).save(buffer := io.BytesIO(), JPEG_2000)
    data = buffer.getvalue()
    place = data.index(b"\xff\x4f\xff\x51") + 42
    deep = data[:place] + b"\x0b" + data[place + 1 :]
    with pytest.raises(DataError, match="12 bits a channel"):
        decode_image(deep, "here")


def test_what_pillow_cannot_read_is_called_by_its_name(monkeypatch):
    heic = b"\0\0\0\x18ftypheic" + bytes(60)
    with pytest.raises(DataError, match="HEIC photo"):
        decode_image(heic, "here")
    monkeypatch.setattr(decoding, "_readable", lambda: ("PNG",))
    with pytest.raises(DataError, match="has no decoder for AVIF"):
        decode_image(heic.replace(b"heic", b"avif"), "here")


def test_other_modes_become_rgb():
    def saved(image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    assert decode_image(saved(Image.new("L", (2, 2), 9)), "here").tolist() == [[[9, 9, 9]] * 2] * 2
    assert decode_image(saved(Image.new("RGB", (1, 1), (9, 8, 7)).quantize(2)), "here").tolist() == [[[9, 8, 7]]]
    assert decode_image(saved(Image.new("1", (1, 1), 1)), "here").tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    "data, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (b"", "empty"),
    ],
)
def test_what_people_find_in_the_place_of_an_image_is_said(data, words):
    with pytest.raises(DataError, match=words):
        decode_image(data, "here")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_grey_value_that_a_png_calls_transparent_is_laid_over_the_background(bits):
    """Every value of few bits, or some of eight, as the clear one of an image that holds all of them."""
    most = 2**bits - 1
    for clear in range(0, most + 1, 1 if bits < 8 else 51):
        values = np.arange(16).reshape(4, 4) % (most + 1) if bits < 8 else np.arange(0, 256, 17).reshape(4, 4)
        rows = ["".join(f"{value:0{bits}b}" for value in row).ljust(8, "0") for row in values]
        lines = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8) for row in rows)
        chunks = (
            b"IHDR" + struct.pack(">IIBBBBB", 4, 4, bits, 0, 0, 0, 0),
            b"tRNS" + struct.pack(">H", clear),
            b"IDAT" + zlib.compress(lines),
            b"IEND",
        )
        data = b"".join(
            struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
        )
        found = decode_image(b"\x89PNG\r\n\x1a\n" + data, "x", (9, 9, 9))
        expected = np.where(values == clear, 9, values * 255 // most)
        assert (found == expected[..., None]).all(), (bits, clear)
