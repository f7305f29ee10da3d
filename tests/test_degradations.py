"""What `degrade` promises for every degradation: addressed noise, checked arguments, an open registry."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
import torch

from fusiondistill import degradations
from fusiondistill.degradations import (
    DEGRADATIONS,
    PAPER_DEGRADATIONS,
    compose,
    degrade,
    reference_degrade,
    register,
)
from fusiondistill.degradations.machinery import composition, operator

IMAGES = torch.randint(0, 256, (12, 3, 17, 22), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
RANDOM = [name for name, degradation in DEGRADATIONS.items() if "keys" in degradation.wants]


def middle(name):
    levels = DEGRADATIONS[name].levels
    return levels[len(levels) * 2 // 3]


@pytest.fixture
def scratch_name():
    yield "made_up_for_a_test"
    DEGRADATIONS._added.pop("made_up_for_a_test", None)


def test_import_costs_torch_and_nothing_else():
    code = (
        "import sys, torch; before = set(sys.modules); import fusiondistill.degradations, fusiondistill.bench;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(new & {'numba', 'scipy', 'imagedegrade', 'PIL', 'torchvision', 'ray', 'pyarrow'})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_papers_four_have_the_papers_levels_and_the_others_are_unseen():
    assert {name: DEGRADATIONS[name].levels for name in PAPER_DEGRADATIONS} == {
        "jpeg": range(1, 102),
        "blur": range(0, 51),
        "noise": range(0, 51),
        "saltpepper": range(0, 26),
    }
    assert [name for name, degradation in DEGRADATIONS.items() if not degradation.unseen] == list(PAPER_DEGRADATIONS)
    others = {"motion_blur", "defocus", "pixelate", "contrast", "brightness", "speckle", "impulse", "haze"}
    assert others <= set(DEGRADATIONS)
    assert all(degradation.description for degradation in DEGRADATIONS.values())


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_batch_cut_in_two_or_reordered_gives_the_same_pixels(name):
    levels = torch.randint(0, 20, (12,), generator=torch.Generator().manual_seed(1)) % len(DEGRADATIONS[name].levels)
    levels += DEGRADATIONS[name].levels[0]
    before = IMAGES.clone()
    whole = degrade(IMAGES, name, levels, seed=3)
    assert torch.equal(IMAGES, before)
    assert whole.dtype == torch.uint8
    assert whole.shape == IMAGES.shape
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    again = [
        degrade(IMAGES[part], name, levels[part], seed=3, indices=part) for part in (order[:5], order[5:6], order[6:])
    ]
    assert torch.equal(torch.cat(again), whole[order])


@pytest.mark.parametrize("name", RANDOM)
def test_noise_depends_on_seed_and_index(name):
    images = torch.full((2, 3, 16, 16), 90, dtype=torch.uint8)
    images[:, :, ::3, ::4] = 200  # A flat image has no motion to blur.
    level = middle(name)
    spread = torch.cat([degrade(images, name, level, seed=seed) for seed in range(8)])
    assert len({image.numpy().tobytes() for image in spread}) > (3 if name == "motion_blur" else 15)


def test_the_field_is_common_to_all_levels():
    images = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    faint = degrade(images, "noise", 10, seed=0).double() - 128
    strong = degrade(images, "noise", 20, seed=0).double() - 128
    assert (strong - 2 * faint).abs().max() <= 1.0 + 1e-9  # floor(20 z) is 2 floor(10 z) or one more.
    few, many = (degrade(images, "saltpepper", level, seed=0) for level in (5, 20))
    assert torch.equal(many[few != 128], few[few != 128])  # What is struck at 5 is struck alike at 20.


def test_levels_come_as_int_list_numpy_or_tensor():
    expected = degrade(IMAGES, "noise", 7, seed=0)
    for levels in ([7] * 12, np.full(12, 7), torch.full((12,), 7, dtype=torch.int32), torch.tensor(7), np.int64(7)):
        assert torch.equal(degrade(IMAGES, "noise", levels, seed=0), expected)


def test_images_in_another_memory_layout_or_none_at_all():
    for name in DEGRADATIONS:
        strided = IMAGES.to(memory_format=torch.channels_last)
        assert torch.equal(degrade(strided, name, middle(name), seed=0), degrade(IMAGES, name, middle(name), seed=0))
        assert degrade(IMAGES[:0], name, [], seed=0).shape == (0, 3, 17, 22)


def test_threads_share_the_work_and_change_nothing():
    before = torch.get_num_threads()
    images = IMAGES.repeat(4, 1, 1, 1)
    try:
        for name in PAPER_DEGRADATIONS:
            torch.set_num_threads(1)
            one = degrade(images, name, middle(name), seed=0)
            torch.set_num_threads(3)
            assert torch.equal(degrade(images, name, middle(name), seed=0), one)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES, "saltpeper", 3), "no degradation 'saltpeper'; did you mean 'saltpepper'"),
        ((IMAGES, "noise", 51), r"level 51 of 'noise' is out of range 0\.\.50"),
        ((IMAGES, "jpeg", [0] * 12), r"level 0 of 'jpeg' is out of range 1\.\.101"),
        ((IMAGES, "blur", [3] * 11), r"levels: expected one per image, shape \[12\], got \[11\]"),
        ((IMAGES, "blur", 2.5), "levels: expected integers"),
        ((IMAGES, "blur", True), "levels: expected integers"),
        ((IMAGES, "blur", "strong"), "levels: expected integers, got 'strong'"),
        ((IMAGES.float(), "blur", 3), "uint8 tensor.*got torch.float32"),
        ((IMAGES.numpy(), "blur", 3), "uint8 tensor.*got ndarray"),
        ((IMAGES[0], "blur", 3), r"expected shape \[B, 3, H, W\], got \[3, 17, 22\]"),
        ((IMAGES[:, :1], "blur", 3), r"got \[12, 1, 17, 22\]"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        degrade(*arguments, seed=0)


def test_bad_protocol_and_indices_are_named():
    with pytest.raises(ValueError, match="unknown protocol 'papre': expected one of standard, paper"):
        degrade(IMAGES, "noise", 3, seed=0, protocol="papre")
    with pytest.raises(ValueError, match=r"indices: expected one per image, shape \[12\], got \[3\]"):
        degrade(IMAGES, "noise", 3, seed=0, indices=[1, 2, 3])


def test_the_reference_checks_its_arguments_and_leaves_numpys_generator_alone():
    image = IMAGES[0].permute(1, 2, 0).contiguous().numpy()
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    first, second = (reference_degrade(image, "noise", 20, rng=3) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(np.random.random(3), expected)  # noqa: NPY002
    for arguments, message in [
        ((image, "haze", 3), "imagedegrade has no 'haze'"),
        ((image, "noise", 51), "out of range"),
        ((image[..., 0], "noise", 5), r"shape \[H, W, 3\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            reference_degrade(*arguments)


def test_a_registered_function_takes_part(scratch_name):
    @register(scratch_name, range(0, 4))
    def invert(images, levels):
        """Turn into its negative, by thirds."""
        share = levels.view(-1, 1, 1, 1)
        return ((images * (3 - share) + (255 - images.long()) * share) // 3).to(torch.uint8)

    assert DEGRADATIONS[scratch_name].unseen
    assert DEGRADATIONS[scratch_name].description == "Turn into its negative, by thirds."
    assert torch.equal(degrade(IMAGES, scratch_name, 3, seed=0), 255 - IMAGES)
    with pytest.raises(ValueError, match=r"out of range 0\.\.3"):
        degrade(IMAGES, scratch_name, 4, seed=0)
    with pytest.raises(ValueError, match="there already is a degradation"):
        register(scratch_name, range(3))(invert)
    compose(scratch_name, {scratch_name: [0, 3], "blur": [0, 0]}, replace=True)


def test_wrong_results_and_missing_docstrings_are_errors(scratch_name):
    with pytest.raises(ValueError, match="needs a docstring"):
        register(scratch_name, range(2))(lambda images, levels: images)

    @register(scratch_name, range(2))
    def halve(images, levels):
        """Lose every second row."""
        return images[:, :, ::2]

    with pytest.raises(ValueError, match=r"'made_up_for_a_test' returned torch.uint8 \[12, 3, 9, 22\]"):
        degrade(IMAGES, scratch_name, 1, seed=0)


@pytest.mark.parametrize(("name", "levels"), [("Blur!", range(3)), ("fine", range(0)), ("fine", [1, 2])])
def test_unusable_names_and_levels_are_refused(name, levels):
    with pytest.raises(ValueError, match=r"letters, digits and underscores|expected a non-empty range"):
        register(name, levels)


def test_a_degradation_that_returns_its_input_does_not_hand_it_out(scratch_name):
    @register(scratch_name, range(2))
    def nothing(images, levels):
        """Do nothing."""
        return images

    assert degrade(IMAGES, scratch_name, 0, seed=0).data_ptr() != IMAGES.data_ptr()


def test_compose_is_one_after_the_other(scratch_name):
    compose(scratch_name, {"blur": [0, 10], "jpeg": [101, 30]})
    expected = degrade(degrade(IMAGES, "blur", 10, seed=0), "jpeg", 30, seed=0)
    assert torch.equal(degrade(IMAGES, scratch_name, 1, seed=0), expected)
    assert torch.equal(degrade(IMAGES, scratch_name, 0, seed=0), IMAGES)
    for parts, message in [
        ({"blur": [1]}, "two or more"),
        ({"blur": [1], "noise": [1, 2]}, "equally many"),
        ({"blur": [1], "noise": [99]}, "level 99 of 'noise' is out of range"),
        ({"blur": [1], "nois": [9]}, "did you mean 'noise'"),
    ]:
        with pytest.raises(ValueError, match=message):
            compose("made_up_for_another_test", parts)


def test_the_examples_in_the_docstrings_run():
    try:
        for module in (operator, degradations, composition):
            assert doctest.testmod(module).failed == 0
    finally:
        for name in ("darken", "soft_and_noisy"):
            DEGRADATIONS._added.pop(name, None)
