"""Images with more than 8 bits a channel, turned, or transparent, against the formulas and against their own bytes."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from fusiondistill.data import DataError, load_images
from fusiondistill.data.decoding import decode, decode_image
from fusiondistill.data.errors import BrokenImage
from image_files import GREY, GREY_ALPHA, RGB, RGBA, png16, tiff


def values(channels: int, most: int = 65535, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most + 1, (5, 7, channels))


def scaled(integers: np.ndarray, bits: int = 16) -> np.ndarray:
    """round(255 v / (2^bits - 1)), by exact fractions."""
    full = 2**bits - 1
    return (2 * 255 * integers + full) // (2 * full)


def laid_over(integers: np.ndarray, background, bits: int = 16) -> np.ndarray:
    full = 2**bits - 1
    alpha = integers[..., -1:] / full
    mixed = integers[..., :-1] / full * alpha + np.asarray(background) / 255 * (1 - alpha)
    return np.broadcast_to(np.floor(mixed * 255 + 0.5), (*integers.shape[:2], 3))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colour, channels", [(GREY, 1), (RGB, 3)])
def test_a_png_of_16_bits(colour, channels, interlaced):
    x = values(channels)
    found = decode(png16(x, colour, interlaced), "here")
    assert (found.pixels == scaled(x)).all() and found.largest == x.max() and found.deep


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("write", [lambda x: png16(x, RGB), lambda x: png16(x[..., :1], GREY), lambda x: tiff16(x)])
def test_values_of_fewer_bits_in_files_of_16(write, bits):
    x = values(3, 2**bits - 1)
    data = write(x)
    expected = scaled(x, bits)
    assert (
        decode(data, "here", bits=bits).pixels == (expected if data != png16(x[..., :1], GREY) else expected[..., :1])
    ).all()
    with pytest.raises(DataError, match=f"more than the {bits - 1} bits"):
        decode(data, "here", bits=bits - 1)


def tiff16(x: np.ndarray, **options) -> bytes:
    return tiff(x.astype(np.uint16), **options)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_of_16_bits(channels, order, packed):
    x = values(channels)
    assert (decode_image(tiff16(x, order=order, packed=packed), "here") == scaled(x)).all()


@pytest.mark.parametrize("order", "<>")
def test_a_tiff_of_16_bits_in_planes(order):
    """Pillow reads the bytes of these as if they were values; compressed planes lose their low bytes."""
    x = values(3)
    assert (decode_image(tiff16(x, order=order, planes=True), "here") == scaled(x)).all()
    with_alpha = values(4)
    found = decode_image(tiff16(with_alpha, order=order, planes=True), "here", (9, 9, 9)).astype(int)
    assert np.abs(found - laid_over(with_alpha, (9, 9, 9))).max() <= 1
    with pytest.raises(BrokenImage, match="planes that are compressed"):
        decode_image(tiff16(x, order=order, planes=True, packed=True), "here")
    with pytest.raises(BrokenImage, match="grey and transparency in planes"):
        decode_image(tiff(x[..., :2].astype(np.uint8), order=order, planes=True, packed=True), "here")


@pytest.mark.parametrize("packed", [False, True])
def test_a_tiff_of_16_bits_whose_colours_are_multiplied_by_alpha(packed):
    x = values(4)
    x[..., :3] = np.minimum(x[..., :3], x[..., 3:])
    expected = np.floor((x[..., :3] / 65535 + np.array([10, 200, 30]) / 255 * (1 - x[..., 3:] / 65535)) * 255 + 0.5)
    assert np.abs(decode_image(tiff16(x, packed=packed, alpha=1), "here", (10, 200, 30)) - expected).max() <= 1


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
@pytest.mark.parametrize(
    "write, channels",
    [
        (lambda x: png16(x, GREY_ALPHA), 2),
        (lambda x: png16(x, RGBA), 4),
        (lambda x: png16(x, RGBA, True), 4),
        (lambda x: tiff16(x), 4),
        (lambda x: tiff16(x, order=">", packed=True), 4),
    ],
)
def test_16_bits_with_transparency(write, channels, background):
    x = values(channels)
    found = decode_image(write(x), "here", background).astype(int)
    assert np.abs(found - laid_over(x, background)).max() <= 1  # a half may fall on either side in float64
    assert (found == laid_over(x, background)).mean() > 0.99


def test_a_transparent_colour_of_16_bits():
    x = values(3)
    data = png16(x, RGB, clear=tuple(x[0, 0]))
    assert decode_image(data, "here", (1, 2, 3))[0, 0].tolist() == [1, 2, 3]
    assert (decode_image(data, "here")[1:] == scaled(x)[1:]).all()


def test_cmyk_of_16_and_of_8_bits_agree():
    eight = np.random.default_rng(1).integers(0, 256, (5, 7, 4))
    wide = tiff16(eight * 257, photometric=5)
    narrow = io.BytesIO()
    Image.fromarray(eight.astype(np.uint8), "CMYK").save(narrow, "TIFF")
    formula = (255 - eight[..., :3]) * (255 - eight[..., 3:]) / 255
    for data in (wide, narrow.getvalue()):
        assert np.abs(decode_image(data, "here") - formula).max() <= 1


def test_floating_point_is_0_to_1():
    x = np.random.default_rng(0).random((5, 7, 1), np.float32)
    assert (decode_image(tiff(x), "here") == np.floor(x.astype(np.float64) * 255 + 0.5)).all()
    for wrong in (x * 255, x - 1, np.full_like(x, np.nan)):
        with pytest.raises(DataError, match="must hold 0 to 1"):
            decode_image(tiff(wrong), "here")


def test_integers_of_32_bits_need_their_range():
    x = values(1, 4095).astype(np.int32)
    with pytest.raises(DataError, match=r"data\.bits"):
        decode_image(tiff(x), "here")
    assert (decode(tiff(x), "here", bits=12).pixels == scaled(x, 12)).all()


@pytest.mark.parametrize("most", [255, 1000, 65535])
def test_a_pnm_file_is_scaled_by_its_own_maximum(most):
    x = np.random.default_rng(0).integers(0, most + 1, (5, 7))
    body = x.astype(">u2" if most > 255 else "u1").tobytes()
    found = decode_image(b"P5 7 5 %d\n" % most + body, "here")
    assert np.abs(found[..., 0] - x * 255 / most).max() <= 0.51


# --- EXIF -------------------------------------------------------------------------------------------------------------

TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: x.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation(orientation, kind):
    x = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert (decode_image(buffer.getvalue(), "here") == TURNS[orientation](x)).all()


@pytest.mark.parametrize("orientation", [0, 6, 9, 300])
def test_exif_orientation_of_a_jpeg_and_orientations_that_are_none(orientation):
    x = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    buffers = []
    for value in (1, orientation):
        exif = Image.Exif()
        exif[0x0112] = value
        buffer = io.BytesIO()
        Image.fromarray(x).save(buffer, "JPEG", exif=exif)
        buffers.append(decode_image(buffer.getvalue(), "here"))
    assert (buffers[1] == TURNS.get(orientation, TURNS[1])(buffers[0])).all()


# --- transparency -----------------------------------------------------------------------------------------------------


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def transparent() -> dict[str, bytes]:
    """One pixel that is fully transparent over dark red, in every form of it."""
    rgba = Image.new("RGBA", (1, 1), (90, 1, 2, 0))
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 90, 1, 2])
    gif = io.BytesIO()
    palette.save(gif, "GIF", transparency=1)
    webp = io.BytesIO()
    rgba.save(webp, "WEBP", lossless=True, exact=True)
    return {
        "RGBA": png(rgba),
        "LA": png(Image.new("LA", (1, 1), (90, 0))),
        "P, a colour": png(palette, transparency=1),
        "P, a table": png(palette, transparency=b"\xff\0"),
        "RGB, a colour": png(Image.new("RGB", (1, 1), (90, 1, 2)), transparency=(90, 1, 2)),
        "L, a colour": png(Image.new("L", (1, 1), 90), transparency=90),
        "1, a colour": png(Image.new("1", (1, 1), 0), transparency=0),
        "GIF": gif.getvalue(),
        "WebP": webp.getvalue(),
    }


@pytest.mark.parametrize("form", transparent())
def test_what_is_transparent_shows_the_background(form):
    data = transparent()[form]
    assert decode_image(data, "here").tolist() == [[[255, 255, 255]]]
    assert decode_image(data, "here", (7, 8, 9)).tolist() == [[[7, 8, 9]]]


def test_opaque_pixels_keep_their_bits_and_half_transparent_ones_are_mixed():
    x = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    x[:, :3, 3] = 255
    found = decode_image(png(Image.fromarray(x)), "here").astype(int)
    assert (found[:, :3] == x[:, :3, :3]).all()
    alpha = x[..., 3:] / 255
    assert np.abs(found - (x[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_of_several_frames_is_read_and_that_is_said(kind):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    found = decode(buffer.getvalue(), "here")
    assert found.several and (found.pixels == [255, 0, 0]).all()


# --- a whole set ------------------------------------------------------------------------------------------------------


def test_a_set_of_12_bits_is_refused_with_the_line_that_mends_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))
    written = {}
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            written[split, name] = values(3, 4095, seed=len(written))
            (tmp_path / split / name / "0.png").write_bytes(png16(written[split, name], RGB))
    with pytest.raises(DataError, match=r"data\.bits: 12"):
        load_images("folder", "train", tmp_path)
    images = load_images("folder", "train", tmp_path, bits=12)
    assert (images.images[1].permute(1, 2, 0).numpy() == scaled(written["train", "b"], 12)).all()
    assert any("more than 8 bits" in note and "12 bits" in note for note in images.notes)
    assert load_images("folder", "train", tmp_path, bits=16).images.max() <= 16


def test_the_degrade_verb_reads_images_by_the_same_rules(tmp_path):
    from fusiondistill.degradations import degrade_grid

    x = values(3)
    (tmp_path / "deep.png").write_bytes(png16(x, RGB))
    Image.fromarray(scaled(x).astype(np.uint8)).save(tmp_path / "plain.png")
    grids = [
        degrade_grid(tmp_path / name, tmp_path / f"grid-{name}", degradations=["jpeg"])
        for name in ("deep.png", "plain.png")
    ]
    assert grids[0].read_bytes() == grids[1].read_bytes()


def test_a_tiff_of_12_packed_bits():
    x = np.random.default_rng(0).integers(0, 4096, (5, 8, 1))
    pairs = x.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1).astype(
        np.uint8
    )
    data = tiff(packed.reshape(5, 12, 1))
    data = data.replace(struct.pack("<HHIHH", 256, 3, 1, 12, 0), struct.pack("<HHIHH", 256, 3, 1, 8, 0))
    data = data.replace(struct.pack("<HHIHH", 258, 3, 1, 8, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0))
    found = decode(data, "here")
    assert (found.pixels == scaled(x, 12)).all() and found.largest is None


@pytest.mark.parametrize("photometric", [0, 1])
def test_a_tiff_of_one_bit(photometric):
    buffer = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=bool)).save(buffer, "TIFF", tiffinfo={262: photometric})
    found = decode_image(buffer.getvalue(), "here")[..., 0]
    assert set(np.unique(found)) == {0, 255}
