"""The input pipeline against the same thing done image by image and pixel by pixel."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Images
from fusiondistill.batches import Batch, Pipeline, normalise
from fusiondistill.data import ImageSet
from fusiondistill.degradations import DEGRADATIONS, degrade
from fusiondistill.level_draws import random_levels
from fusiondistill.randomness import integers, key, permutation, uniform

FOUR = ("jpeg", "blur", "noise", "saltpepper")
CPU = torch.device("cpu")


def pipeline(images: ImageSet, degradations: tuple[str, ...] = FOUR, **other: Any) -> Pipeline:
    settings: dict[str, Any] = {
        "seed": 5, "batch_size": 16, "flip": True, "padding": 4, "cutout": 4, "pairing": "independent",
        "teacher_view": "clean", "protocol": "standard", "device": CPU,
    }  # fmt: skip
    return Pipeline(images, degradations, **{**settings, **other})


def bits(address: int, counter: int) -> int:
    """splitmix64 on Python's integers."""
    mask = 2**64 - 1
    x = (counter * 0x9E3779B97F4A7C15 + address) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def splitmix(address: int, counter: int) -> int:
    """The upper 53 bits."""
    return bits(address, counter) >> 11


def signed(address: int, counter: int) -> int:
    """All 64 bits as a signed number: what an order is sorted by."""
    number = bits(address, counter)
    return number - 2**64 if number >= 2**63 else number


def test_addressed_numbers_are_splitmix64() -> None:
    counters = [0, 1, 2, 77, 10**9]
    for address in (key(0, "a"), key(-3, "b", 7), -1, 0):
        expected = [splitmix(address, c) for c in counters]
        assert uniform(address, torch.tensor(counters)).tolist() == [e / 2**53 for e in expected]
        assert integers(address, torch.tensor(counters), -2, 8).tolist() == [e % 11 - 2 for e in expected]
        order = permutation(address, 50).tolist()
        assert sorted(order) == list(range(50)) and order != list(range(50))
    assert key(1, "1") != key("1", 1) and key("a", "b") != key("ab") and key(1, 23) != key(12, 3)


def crop_by_hand(image: np.ndarray, top: int, left: int, padding: int) -> np.ndarray:
    out = np.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            from_y, from_x = y + top - padding, x + left - padding
            if 0 <= from_y < height and 0 <= from_x < width:
                out[:, y, x] = image[:, from_y, from_x]
    return out


def by_hand(p: Pipeline, index: int, name: str | None, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(student, view of the teacher without cutout) of one image."""
    image = p.images.images[index].numpy()
    pair = "" if name is None or p.pairing == "same" else name
    if p.flip and splitmix(key(p.seed, "flip", epoch, pair), index) / 2**53 < 0.5:
        image = image[:, :, ::-1]
    seen = image
    if name is not None:
        levels = DEGRADATIONS[name].levels
        address = f"{len(levels)} levels" if p.coupled else name
        level = levels[splitmix(key(p.seed, "level", epoch, address), index) % len(levels)]
        one = torch.from_numpy(image.copy())[None]
        noise = key(p.seed, "pixels", epoch)
        seen = degrade(one, name, level, seed=noise, indices=[index], protocol=p.protocol)[0].numpy()
    place = key(p.seed, "crop", epoch, pair)
    top, left = (splitmix(place, 2 * index + i) % (2 * p.padding + 1) for i in (0, 1))
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (p.images.mean, p.images.std))
    student = (crop_by_hand(seen, top, left, p.padding).astype(np.float32) - mean) / std
    shown = image if p.teacher_view == "clean" else seen
    teacher = (crop_by_hand(shown, top, left, p.padding).astype(np.float32) - mean) / std
    _, height, width = student.shape
    shared = name is None or (p.coupled and name in ("jpeg", "blur"))
    hole = key(p.seed, "cutout", epoch, "" if shared else name)
    centre_y, centre_x = splitmix(hole, 2 * index) % height, splitmix(hole, 2 * index + 1) % width
    for y in range(centre_y - p.cutout // 2, centre_y - p.cutout // 2 + p.cutout):
        for x in range(centre_x - p.cutout // 2, centre_x - p.cutout // 2 + p.cutout):
            if 0 <= y < height and 0 <= x < width:
                student[:, y, x] = 0
    return student, teacher


@pytest.mark.parametrize(
    "other", [{}, {"pairing": "same", "coupled": True, "protocol": "paper", "teacher_view": "degraded"}]
)
@pytest.mark.parametrize("degradations", [FOUR, ()])
def test_every_pixel_is_the_one_made_by_hand(
    tiny: Images, other: dict[str, Any], degradations: tuple[str, ...]
) -> None:
    p = pipeline(tiny(21, 8, 10), degradations, **other)
    names = degradations or (None,)
    for epoch in (0, 3):
        batches = list(p.epoch(epoch))
        assert len(batches) == p.steps == 2
        orders = [
            sorted(range(21), key=lambda i, pair=pair: signed(key(p.seed, "order", epoch, pair), i))
            for pair in ("" if n is None or p.pairing == "same" else n for n in names)
        ]
        for step, batch in enumerate(batches):
            part = slice(16 * step, 16 * step + 16)
            for name, order, place in zip(names, orders, batch.slices, strict=True):
                expected = [by_hand(p, i, name, epoch) for i in order[part]]
                np.testing.assert_array_equal(batch.student[place].numpy(), np.stack([s for s, _ in expected]))
                assert batch.teacher is not None
                np.testing.assert_array_equal(batch.teacher[place].numpy(), np.stack([t for _, t in expected]))
                assert batch.labels[place].tolist() == [i % 3 for i in order[part]]


def rows(batches: list[Batch]) -> list[tuple[bytes, bytes, int]]:
    """Every image of some batches as (student, teacher, label)."""
    found = []
    for batch in batches:
        assert batch.teacher is not None and len(batch.student) == len(batch.teacher) == len(batch.labels)
        for student, teacher, label in zip(batch.student, batch.teacher, batch.labels, strict=True):
            found.append((student.numpy().tobytes(), teacher.numpy().tobytes(), int(label)))
    return found


def test_no_batch_size_changes_a_pixel(tiny: Images) -> None:
    images = tiny(37)
    one_by_degradation = [rows(list(pipeline(images, (d,), batch_size=37).epoch(1))) for d in FOUR]
    for size in (2, 5, 36, 37, 100):
        batches = list(pipeline(images, batch_size=size).epoch(1))
        assert [len(b.labels) for b in batches] == [4 * min(size, 37 - start) for start in range(0, 37, size)]
        for d in range(4):
            parts = [replace(b, student=b.student[s], teacher=b.teacher[s], labels=b.labels[s])  # type: ignore[index]
                     for b in batches for s in [b.slices[d]]]  # fmt: skip
            assert rows(parts) == one_by_degradation[d]


def test_an_epoch_is_a_function_of_its_number(tiny: Images) -> None:
    p = pipeline(tiny())
    first, second = rows(list(p.epoch(0))), rows(list(p.epoch(1)))
    assert rows(list(p.epoch(1))) == second and rows(list(p.epoch(0))) == first
    assert rows(list(pipeline(tiny()).epoch(1))) == second  # another process that resumes there
    assert not set(first) & set(second)
    assert rows(list(pipeline(tiny(), seed=6).epoch(0))) != first


@pytest.mark.parametrize(("n", "size", "world"), [(37, 16, 2), (37, 18, 3), (32, 8, 4), (33, 16, 2), (35, 16, 2)])
def test_workers_share_every_batch(tiny: Images, n: int, size: int, world: int) -> None:
    images = tiny(n)
    single = list(pipeline(images, batch_size=size).epoch(2))
    workers = [list(pipeline(images, batch_size=size, rank=r, world_size=world).epoch(2)) for r in range(world)]
    for step, whole in enumerate(single):
        parts = [worker[step] for worker in workers]
        together = Counter(row for part in parts for row in rows([part]))
        total = len(whole.labels)
        if total // 4 >= 2 * world:
            assert together == Counter(rows([whole]))
            assert all(len(part.labels) >= 2 for part in parts)
        else:  # too small to cut: everybody does it
            assert all(rows([part]) == rows([whole]) for part in parts)
        assert sum(part.weight for part in parts) == pytest.approx(total)
        # The mean over workers of share x (mean over the worker's images) is the mean over all images.
        values = [float(part.student.double().mean((1, 2, 3)).mean()) * part.share for part in parts]
        assert np.mean(values) == pytest.approx(float(whole.student.double().mean((1, 2, 3)).mean()), rel=1e-6)


def test_pairing(tiny: Images) -> None:
    """Under ``same`` all degradations of a step show the same images with the same flip and crop."""
    for epoch in range(2):
        for batch in pipeline(tiny(), pairing="same").epoch(epoch):
            assert batch.teacher is not None
            clean = [batch.teacher[part] for part in batch.slices]
            assert all(torch.equal(clean[0], other) for other in clean[1:])
            assert all(torch.equal(batch.labels[batch.slices[0]], batch.labels[part]) for part in batch.slices)
        batch = next(iter(pipeline(tiny(), pairing="independent").epoch(epoch)))
        assert batch.teacher is not None
        clean = [batch.teacher[part] for part in batch.slices]
        assert not any(torch.equal(clean[i], clean[j]) for i in range(4) for j in range(i))


def test_views_share_flip_and_crop_and_only_the_student_has_a_hole(tiny: Images) -> None:
    """Level 101 of jpeg leaves the image clean: where that was drawn, both views differ by the hole alone."""
    images = tiny(400)
    p = pipeline(images, ("jpeg",), batch_size=400)
    (batch,) = p.epoch(0)
    order = permutation(key(5, "order", 0, "jpeg"), 400)
    untouched = (random_levels("jpeg", key(5, "level", 0, "jpeg"), order) == 101).nonzero().flatten().tolist()
    assert untouched and batch.teacher is not None
    for i in untouched:
        different = (batch.student[i] != batch.teacher[i]).any(0)
        assert (batch.student[i][:, different] == 0).all() and 0 < different.sum() <= 16
    assert not (batch.teacher == 0).flatten(1).all(1).any()
    (clean,) = pipeline(images, (), batch_size=400, cutout=0).epoch(0)
    assert clean.teacher is not None and torch.equal(clean.student, clean.teacher)
    assert next(iter(pipeline(images, teacher_view=None).epoch(0))).teacher is None


def chi_square(counts: torch.Tensor) -> float:
    """Standard deviations that a uniform count is off its expectation (Wilson and Hilferty's approximation)."""
    expected = counts.double().mean()
    statistic, degrees = float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1
    spread = 2 / (9 * degrees)
    return ((statistic / degrees) ** (1 / 3) - (1 - spread)) / spread**0.5


def test_flips_crops_and_holes_are_drawn_evenly() -> None:
    """20,000 images that tell by their pixels what was done to them."""
    n, side = 20_000, 12
    ramp = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, 1, side, side).expand(n, 3, -1, -1)
    images = ImageSet("ramp", ramp.contiguous(), torch.zeros(n, dtype=torch.int64), ["a"],
                      statistics=((0.0,) * 3, (1.0,) * 3))  # fmt: skip
    (batch,) = pipeline(images, (), batch_size=n, cutout=0).epoch(0)
    centre = batch.student[:, 0, 6, 6].long() - 1  # which pixel came to (6, 6)
    row, column = centre // side, centre % side
    flipped = batch.student[:, 0, 6, 5] > batch.student[:, 0, 6, 6]
    assert abs(int(flipped.sum()) - n / 2) < 4 * (n / 4) ** 0.5
    top, left = row - 6 + 4, torch.where(flipped, side - 1 - column, column) - 6 + 4
    for offsets in (top, left, top * 9 + left):
        counts = torch.bincount(offsets)
        assert len(counts) in (9, 81) and chi_square(counts) < 4, counts
    straight = next(iter(pipeline(images, (), batch_size=n, cutout=0, flip=False).epoch(0)))
    assert not (straight.student[:, 0, 6, 5] > straight.student[:, 0, 6, 6]).any()

    (holes,) = pipeline(images, (), batch_size=n, cutout=4, padding=0, flip=False).epoch(0)
    empty = holes.student[:, 0] == 0
    heights, widths = empty.any(2).sum(1), empty.any(1).sum(1)
    assert torch.equal(empty.flatten(1).sum(1), heights * widths)  # always one rectangle
    # A centre c covers rows c-2..c+1: of 12 centres two are clipped by one side and one by two at the borders.
    for lengths in (heights, widths):
        share = torch.bincount(lengths, minlength=5) / n
        assert share.tolist() == pytest.approx([0, 0, 1 / 12, 2 / 12, 9 / 12], abs=0.015)
    corner = empty[:, 0, 0].double().mean()
    assert float(corner) == pytest.approx((3 / 12) ** 2, abs=0.008) and float(empty[:, 6, 6].double().mean()) > 0.09


@pytest.mark.parametrize("name", FOUR)
def test_levels_cover_their_whole_range(name: str) -> None:
    levels = random_levels(name, key(1, "level"), torch.arange(20_000))
    allowed = DEGRADATIONS[name].levels
    counts = torch.bincount(levels - allowed[0], minlength=len(allowed))
    assert set(levels.tolist()) == set(allowed) and chi_square(counts) < 4


def test_normalised_pixels_and_memory_layout(tiny: Images) -> None:
    images = tiny().images
    expected = (images.double().numpy() - np.reshape([1, 2, 3], (3, 1, 1))) / np.reshape([4, 5, 6], (3, 1, 1))
    np.testing.assert_allclose(normalise(images, (1, 2, 3), (4, 5, 6)).numpy(), expected, rtol=1e-6)
    plain = list(pipeline(tiny()).epoch(0))
    for ours, batch in zip(pipeline(tiny(), channels_last=True).epoch(0), plain, strict=True):
        assert ours.student.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(ours.student, batch.student)
