"""JPEG and blur, bit for bit: against Pillow, scipy and imagedegrade themselves."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from fusiondistill.degradations import DEGRADATIONS, blur, degrade, jpeg, reference_degrade
from fusiondistill.degradations.machinery import jpeg_arithmetic as arithmetic

DATA = Path(os.environ.get("FUSIONDISTILL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SIZES = [(8, 8), (9, 13), (33, 47), (16, 16), (17, 32), (50, 21), (3, 70), (4, 4), (1, 1)]
TENSOR = {"jpeg": jpeg.tensor_jpeg, "blur": blur.tensor_blur}


def pictures(height, width):
    """Random, smooth, black-and-white, flat, ramps and stripes: uint8 [24,3,H,W]."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    images = torch.randint(0, 256, (24, 3, height, width), dtype=torch.uint8, generator=generator)
    coarse = torch.rand((10, 3, 4, 4), generator=generator) * 300 - 20
    images[4:14] = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    images[14:17] = (images[14:17] > 127) * 255
    images[17:20] = torch.tensor([0, 77, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    images[20] = torch.arange(width) % 256
    images[21] = (torch.arange(height) * 3 % 256)[:, None]
    images[22] = (torch.arange(height)[:, None] + torch.arange(width)) % 2 * 255
    images[23] = torch.arange(width) // 3 % 2 * 255
    return images


def through_reference(images, name, level):
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    return torch.from_numpy(np.stack([reference_degrade(image, name, level) for image in arrays])).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["jpeg", "blur"])
def test_every_level_equals_the_reference(name):
    images = pictures(32, 32)
    for level in DEGRADATIONS[name].levels:
        expected = through_reference(images, name, level)
        assert torch.equal(degrade(images, name, level, seed=0), expected), level
        assert torch.equal(TENSOR[name](images, torch.full((24,), level)), expected), level


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["jpeg", "blur"])
def test_every_size_equals_the_reference(name, size):
    images = pictures(*size)
    for level in [*DEGRADATIONS[name].levels][1::6]:
        expected = through_reference(images, name, level)
        assert torch.equal(degrade(images, name, level, seed=0), expected), level
        assert torch.equal(TENSOR[name](images, torch.full((24,), level)), expected), level


@pytest.mark.parametrize("name", ["jpeg", "blur"])
def test_each_image_has_its_own_level(name):
    images = pictures(33, 47)
    levels = torch.arange(24) * 2 + 3 if name == "blur" else torch.arange(24) * 4 + 9
    expected = torch.cat([through_reference(images[i : i + 1], name, int(level)) for i, level in enumerate(levels)])
    assert torch.equal(degrade(images, name, levels, seed=0), expected)
    assert torch.equal(TENSOR[name](images, levels), expected)


def test_pillow_and_scipy_say_the_same_without_imagedegrade():
    images = pictures(33, 47)
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    for level in (5, 40, 75, 95):
        for image, ours in zip(arrays, degrade(images, "jpeg", level, seed=0), strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=level)
            assert np.array_equal(np.asarray(Image.open(buffer)), ours.permute(1, 2, 0).numpy())
    for level in (3, 17, 50):
        for image, ours in zip(arrays, degrade(images, "blur", level, seed=0), strict=True):
            smooth = ndimage.gaussian_filter(image, sigma=(level / 10, level / 10, 0), truncate=3.0, mode="nearest")
            assert np.array_equal(smooth, ours.permute(1, 2, 0).numpy())


def test_level_101_is_clean():
    images = pictures(9, 13)
    assert torch.equal(degrade(images, "jpeg", 101, seed=0), images)
    mixed = degrade(images, "jpeg", [101, 10] * 12, seed=0)
    assert torch.equal(mixed[::2], images[::2])
    assert not torch.equal(mixed[1::2], images[1::2])


def test_flat_images_show_that_rounding_below_whole_numbers_is_copied():
    """On flat images a product with scipy's kernel in another order is wrong: the test has to see that."""
    flat = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    wrong = 0
    for level in range(2, 51, 6):
        expected = through_reference(flat, "blur", level)
        assert torch.equal(degrade(flat, "blur", level, seed=0), expected)
        weights = blur.weights(torch.device("cpu"))[level]
        inner_first = torch.zeros(256, dtype=torch.float64)
        for distance in range(16):
            inner_first += (2 if distance else 1) * torch.arange(256) * weights[distance]
        wrong += int((inner_first.to(torch.uint8) != expected[:, 0, 0, 0]).sum())
    assert wrong > 20


def test_the_transforms_are_the_cosine_transform_and_its_inverse():
    """Against the formula, so that an error common to both directions cannot hide."""
    k, x = np.mgrid[0:8, 0:8]
    cosines = np.cos((2 * x + 1) * k * np.pi / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)
    forward, inverse = (arithmetic.matrix(t) for t in (arithmetic.forward_transform, arithmetic.inverse_transform))
    assert np.abs(forward / 2**13 / np.sqrt(8) - cosines).max() < 1e-4
    assert np.abs(inverse / 2**13 / np.sqrt(8) - cosines.T).max() < 1e-4


def test_quantisation_tables_are_those_that_pillow_writes():
    tables = arithmetic.quantisation_tables()
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        written = Image.open(buffer).quantization
        assert [written[0], written[1]] == tables[quality].reshape(2, 64).tolist(), quality


def real_images():
    archive = DATA / "tiny-imagenet-200-subset.zip"
    if not archive.exists():
        pytest.skip(f"no real images at {DATA}")
    with zipfile.ZipFile(archive) as files:
        names = [name for name in files.namelist() if name.endswith(".JPEG")][7::600]
        arrays = [np.array(Image.open(io.BytesIO(files.read(name))).convert("RGB")) for name in names]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("name", ["jpeg", "blur"])
def test_real_images_equal_the_reference(name):
    images = real_images()
    for level in [*DEGRADATIONS[name].levels][::5]:
        assert torch.equal(degrade(images, name, level, seed=0), through_reference(images, name, level)), level
