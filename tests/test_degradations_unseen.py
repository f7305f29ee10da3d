"""The unseen degradations, against other libraries or their formula."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.transforms import functional as torchvision

from fusiondistill.degradations import DEGRADATIONS, degrade

UNSEEN = [name for name, degradation in DEGRADATIONS.items() if degradation.unseen]


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand((16, 3, 7, 7), generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (29, 37), mode="bicubic")
    return (smooth + 20 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("name", UNSEEN)
def test_the_first_level_is_clean_and_each_further_one_is_worse(name, images):
    distances = [
        (degrade(images, name, level, seed=0).double() - images).abs().mean().item()
        for level in DEGRADATIONS[name].levels
    ]
    assert distances[0] == 0
    assert all(later > earlier for earlier, later in itertools.pairwise(distances))
    assert distances[-1] > 10


@pytest.mark.parametrize("level", range(10))
def test_contrast_is_torchvisions(images, level):
    theirs = torch.stack([torchvision.adjust_contrast(image, 1 - level / 10) for image in images])
    assert (degrade(images, "contrast", level, seed=0).int() - theirs).abs().max() <= 1


@pytest.mark.parametrize("level", range(11))
def test_brightness_is_torchvisions(images, level):
    theirs = torchvision.adjust_brightness(images, 1 + level / 5)
    assert (degrade(images, "brightness", level, seed=0).int() - theirs).abs().max() <= 1


@pytest.mark.parametrize("level", [1, 4, 10])
def test_defocus_is_a_correlation_with_a_disc(images, level):
    y, x = np.mgrid[-5:6, -5:6]
    disc = np.rint(16 * np.clip(1 + 0.4 * level - np.hypot(x, y), 0, 1))
    expected = ndimage.correlate(images.numpy().astype(float), (disc / disc.sum())[None, None], mode="nearest")
    assert np.abs(degrade(images, "defocus", level, seed=0).numpy() - expected).max() <= 0.5 + 1e-9


def test_motion_blur_is_a_mean_along_one_of_four_lines(images):
    level, lines = 3, {}
    flat = np.zeros((7, 7))
    for name, where in {
        "across": (3, slice(None)), "down": (slice(None), 3), "falling": (range(7), range(7)),
        "rising": (range(7), range(6, -1, -1)),
    }.items():  # fmt: skip
        kernel = flat.copy()
        kernel[where] = 1 / 7
        # A diagonal's ends are cut off row by row and column by column, as `nearest` does.
        lines[name] = ndimage.correlate(images.numpy().astype(float), kernel[None, None], mode="nearest")
    out = degrade(images, "motion_blur", level, seed=1).numpy()
    found = [[name for name, line in lines.items() if np.abs(out[i] - line[i]).max() <= 0.51] for i in range(len(out))]
    assert all(len(names) == 1 for names in found)
    assert len({names[0] for names in found}) == 4


@pytest.mark.parametrize("level", range(8))
def test_pixelate_is_the_mean_of_squares(images, level):
    side, out = level + 1, degrade(images, "pixelate", level, seed=0)
    for top in range(0, 29, side):
        for left in range(0, 37, side):
            square = images[:, :, top : top + side, left : left + side].double().mean((2, 3), keepdim=True)
            ours = out[:, :, top : top + side, left : left + side].double()
            assert (ours - square).abs().max() <= 0.5


def test_speckle_grows_with_the_signal():
    values = torch.tensor([20, 60, 120], dtype=torch.uint8)
    flat = values.view(3, 1, 1, 1).expand(3, 3, 128, 128).contiguous()
    out = degrade(flat, "speckle", 3, seed=0).double()
    spread = out.flatten(1).std(1)
    assert torch.allclose(spread, values.double() * 0.15, rtol=0.02, atol=0.1)
    assert torch.allclose(out.flatten(1).mean(1), values.double() - 0.5, atol=0.4)  # Truncation takes half a unit.


def test_impulse_strikes_whole_pixels():
    out = degrade(torch.full((64, 3, 32, 32), 100, dtype=torch.uint8), "impulse", 20, seed=0)
    assert (out == out[:, :1]).all()
    assert (out == 255).double().mean().item() == pytest.approx(0.1, rel=0.05)
    assert (out == 0).double().mean().item() == pytest.approx(0.09, rel=0.05)


def test_haze_blends_with_light_between_its_bounds(images):
    out = degrade(images, "haze", 10, seed=0).double()
    # A half to a full share of 230; 2 for whole-number rounding.
    low, high = (
        torch.minimum((images + 230.0) / 2, torch.tensor(230.0)),
        torch.maximum((images + 230.0) / 2, torch.tensor(230.0)),
    )
    assert (out >= low - 2).all()
    assert (out <= high + 2).all()
    share = (out - images) / (230.0 - images)
    interior = (230.0 - images).abs() > 100
    assert share[interior].std() > 0.05  # Drifts, not a uniform veil.
