"""Resized crops: their boxes as torchvision draws them, their pixels as torchvision resizes them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2.functional import resized_crop as torchvision_crop

from conftest import Images
from fusiondistill import augmentation
from fusiondistill.augmentation import crop_boxes, resized_crop
from fusiondistill.batches import normalise
from fusiondistill.level_draws import degraded, random_levels
from fusiondistill.randomness import key, permutation, uniform
from test_batches import pipeline, rows, splitmix

USUAL = ((0.08, 1.0), (3 / 4, 4 / 3))


@pytest.mark.parametrize("size", [(32, 32), (9, 14), (40, 24)])
def test_pixels_are_torchvisions(size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (40, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[1:3] = 255  # flat images stay flat
    found = resized_crop(images, 7, torch.arange(40), *USUAL)
    boxes = crop_boxes(7, torch.arange(40), size, *USUAL).T.tolist()
    exact = [
        torchvision_crop(one.float(), *box, list(size), antialias=True) for one, box in zip(images, boxes, strict=True)
    ]
    assert float((found - torch.stack(exact)).abs().max()) < 0.7 and (found[1:3] == 255).all()


def by_hand(address: int, index: int, size: tuple[int, int], scale: Any, ratio: Any) -> list[int]:
    """The box of one image, as torchvision's ``get_params`` goes about it."""
    height, width = size

    def draw(number: int) -> float:
        return splitmix(address, 32 * index + number) / 2**53

    for attempt in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * draw(2 * attempt))
        low, high = math.log(ratio[0]), math.log(ratio[1])
        shape = math.exp(low + (high - low) * draw(2 * attempt + 1))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return [int(draw(20) * (height - h + 1)), int(draw(21) * (width - w + 1)), h, w]
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [((32, 32), *USUAL), ((8, 60), (0.9, 1.0), (0.75, 1.5)), ((60, 8), (0.9, 1.0), (0.75, 1.5)),
     ((12, 12), (1.0, 1.0), (1.0, 1.0)), ((10, 10), (0.001, 0.01), (1.0, 2.0))],
)  # fmt: skip
def test_boxes_are_those_drawn_by_hand(size: tuple[int, int], scale: Any, ratio: Any) -> None:
    found = crop_boxes(-3, torch.arange(300), size, scale, ratio).T.tolist()
    assert found == [by_hand(-3, index, size, scale, ratio) for index in range(300)]


def test_boxes_are_spread_as_torchvisions() -> None:
    torch.manual_seed(0)
    drawn = RandomResizedCrop((24, 24), *USUAL)
    image = torch.empty(3, 24, 36)
    drawn_there = [drawn.make_params([image]) for _ in range(3000)]
    theirs = torch.tensor([[one[name] for name in ("top", "left", "height", "width")] for one in drawn_there]).T
    ours = crop_boxes(1, torch.arange(3000), (24, 36), *USUAL)
    for pair in zip(
        (*ours[:2], ours[2] * ours[3], ours[3] / ours[2]), (*theirs[:2], theirs[2] * theirs[3], theirs[3] / theirs[2]),
        strict=True,
    ):  # fmt: skip
        assert ks_2samp(*pair).pvalue > 0.01


def test_a_crop_is_the_images_own_whatever_the_batch(tiny: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    images, indices = tiny(37).images, torch.arange(37) * 5
    whole = resized_crop(images, 3, indices, *USUAL)
    back = resized_crop(images.flip(0), 3, indices.flip(0), *USUAL).flip(0)
    monkeypatch.setattr(augmentation, "_VALUES", 3 * 8 * 8 * 2)
    assert torch.equal(whole, back) and torch.equal(whole, resized_crop(images, 3, indices, *USUAL))
    assert not torch.equal(whole, resized_crop(images, 4, indices, *USUAL))
    settings = {"scale": (0.2, 1.0), "degradations": ("noise",)}
    assert rows(list(pipeline(tiny(), batch_size=5, **settings).epoch(1))) == rows(
        list(pipeline(tiny(), batch_size=37, **settings).epoch(1))
    )


def test_both_views_have_the_crop_and_it_comes_before_the_degradation(tiny: Images) -> None:
    images = tiny(30, 9, 7)
    p = pipeline(images, ("noise",), batch_size=30, cutout=0, scale=(0.3, 0.9), ratio=(0.5, 2.0))
    (batch,) = p.epoch(2)
    order = permutation(key(5, "order", 2, "noise"), 30)
    flipped = uniform(key(5, "flip", 2, "noise"), order) < 0.5
    shown = torch.where(flipped.view(-1, 1, 1, 1), images.images[order].flip(3), images.images[order])
    clean = resized_crop(shown, key(5, "crop", 2, "noise"), order, (0.3, 0.9), (0.5, 2.0))
    levels = random_levels("noise", key(5, "level", 2, "noise"), order)
    seen = degraded(clean, "noise", levels, seed=key(5, "pixels", 2), indices=order, protocol="standard")
    assert batch.teacher is not None and torch.equal(batch.teacher, normalise(clean, images.mean, images.std))
    assert torch.equal(batch.student, normalise(seen, images.mean, images.std))
