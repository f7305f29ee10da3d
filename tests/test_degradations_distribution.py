"""Noise and salt-and-pepper have the reference's distribution.

Every statistic is also given imagedegrade's own output, which must pass, and wrong variants, which must not: so the
tests are known to have power.
"""

import numpy as np
import pytest
import torch
from scipy import special, stats

from fusiondistill import randomness
from fusiondistill.degradations import degrade, reference_degrade
from fusiondistill.degradations.machinery import fields

SIDE, COUNT = 32, 400  # 1.2 million values.
FAIL, PASS = 1e-9, 1e-4


def flat(value):
    return torch.full((COUNT, 3, SIDE, SIDE), value, dtype=torch.uint8)


def reference(value, name, level, protocol="standard"):
    image = np.full((SIDE, SIDE, 3), value, dtype=np.uint8)
    generator = np.random.default_rng(11)
    outputs = [reference_degrade(image, name, level, protocol=protocol, rng=generator) for _ in range(COUNT)]
    return torch.from_numpy(np.stack(outputs)).permute(0, 3, 1, 2)


def chi_square(observed, expected):
    """p-value; neighbouring classes are joined until each is expected 25 times."""
    joined, o, e = [], 0.0, 0.0
    for a, b in zip(observed, expected, strict=True):
        o, e = o + a, e + b
        if e >= 25:
            joined.append((o, e))
            o, e = 0.0, 0.0
    joined[-1] = (joined[-1][0] + o, joined[-1][1] + e)
    observed, expected = np.array(joined).T
    return stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(joined) - 1)


def noise_p_value(output, value, sigma):
    """Clip, then truncate: class k holds k <= value + sigma z < k + 1, the first and last also what was clipped."""
    edges = special.ndtr((np.arange(1, 256) - value) / sigma)
    expected = np.diff(edges, prepend=0.0, append=1.0) * output.numel()
    return chi_square(np.bincount(output.flatten().numpy(), minlength=256), expected)


@pytest.mark.parametrize(("value", "level"), [(128, 50), (128, 20), (100, 7), (3, 30), (250, 10), (60, 1)])
def test_noise_is_normal_clipped_and_truncated(value, level):
    assert noise_p_value(degrade(flat(value), "noise", level, seed=1), value, level) > PASS


def test_the_noise_test_has_power():
    value, sigma = 128, 20
    generator = np.random.default_rng(0)
    z = generator.standard_normal((COUNT, 3, SIDE, SIDE))

    def p_value(numbers):
        return noise_p_value(torch.from_numpy(np.clip(numbers, 0, 255).astype(np.uint8)), value, sigma)

    assert noise_p_value(reference(value, "noise", sigma), value, sigma) > PASS
    assert p_value(value + sigma * z) > PASS
    assert p_value(value + 1.02 * sigma * z) < FAIL
    assert p_value(value + 0.98 * sigma * z) < FAIL
    assert p_value(np.rint(value + sigma * z)) < FAIL
    assert p_value(value + sigma * generator.uniform(-(3**0.5), 3**0.5, z.shape)) < FAIL
    assert p_value(value + sigma * (generator.random((12, *z.shape)).sum(0) - 6)) < FAIL  # The sum of twelve.


def test_the_normal_table_is_the_quantile_function():
    bits = fields.random_bits(randomness.bits(0, torch.arange(40)), 5000)
    bits[0, :4] = torch.tensor([0, 255, -(2**31), 2**31 - 1])  # The ends of the range.
    z = fields.normal(bits.clone()).double() / 2**fields.SCALE_BITS
    odd = ((bits >> 7) & 0xFFFFFE) | 1
    exact = special.ndtri(odd.numpy() / 2**25) * np.where(bits.numpy() < 0, 1, -1)
    assert np.abs(z.numpy() - exact).max() < 2e-5
    assert 5.41 < z.abs().max() < 5.42


def salt_p_value(output, level, salt):
    """Classes: how many of a pixel's three channels are salt, how many pepper; independent, so multinomial."""
    p = level / 100
    chances = np.array([p / 2, (1 - p / 2) * p / 2, 0])
    chances[2] = 1 - chances.sum()
    is_salt, is_pepper = (output == salt).sum(1).flatten(), (output == 0).sum(1).flatten()
    if ((output != salt) & (output != 0) & (output != 100)).any():
        return 0.0
    pairs = [(a, b) for a in range(4) for b in range(4 - a)]
    observed = [int(((is_salt == a) & (is_pepper == b)).sum()) for a, b in pairs]
    expected = [stats.multinomial.pmf([a, b, 3 - a - b], 3, chances) * len(is_salt) for a, b in pairs]
    return chi_square(observed, expected)


@pytest.mark.parametrize("level", [1, 10, 25])
@pytest.mark.parametrize(("protocol", "salt"), [("standard", 255), ("paper", 1)])
def test_salt_and_pepper_strike_as_often_as_they_should(level, protocol, salt):
    output = degrade(flat(100), "saltpepper", level, seed=2, protocol=protocol)
    assert salt_p_value(output, level, salt) > PASS
    assert salt_p_value(reference(100, "saltpepper", level, protocol), level, salt) > PASS


def test_the_salt_and_pepper_test_has_power():
    level, generator = 10, np.random.default_rng(3)

    def strike(shape, pepper, salt, value):
        image = np.full((COUNT, 3, SIDE, SIDE), 100, dtype=np.uint8)
        image[np.broadcast_to(generator.random(shape) < pepper, image.shape)] = 0
        image[np.broadcast_to(generator.random(shape) < salt, image.shape)] = value
        return torch.from_numpy(image)

    whole, per_pixel = (COUNT, 3, SIDE, SIDE), (COUNT, 1, SIDE, SIDE)
    assert salt_p_value(strike(whole, 0.05, 0.05, 255), level, 255) > PASS
    assert salt_p_value(strike(whole, 0.05, 0.05, 1), level, 255) < FAIL
    assert salt_p_value(strike(per_pixel, 0.05, 0.05, 255), level, 255) < FAIL
    assert salt_p_value(strike(whole, 0.05 / 0.95, 0.05, 255), level, 255) < FAIL  # Pepper not overpainted by salt.
    assert salt_p_value(strike(whole, 0.051, 0.051, 255), level, 255) < 1e-4  # 2 % too often.


def test_neighbours_channels_images_seeds_and_names_are_independent():
    """Correlations of the fields, each of 1.2 million pairs: five standard deviations are 0.0045."""
    z = degrade(flat(128), "noise", 30, seed=0).double() - 127.5
    other = degrade(flat(128), "noise", 30, seed=1).double() - 127.5
    speckle = degrade(flat(128), "speckle", 4, seed=0).double() - 127.5
    pairs = {
        "right": (z[..., 1:], z[..., :-1]),
        "below": (z[..., 1:, :], z[..., :-1, :]),
        "channel": (z[:, 1:], z[:, :-1]),
        "image": (z[1:], z[:-1]),
        "seed": (z, other),
        "name": (z, speckle),
    }
    for what, (a, b) in pairs.items():
        correlation = float((a * b).mean() / (a.std() * b.std()))
        squares = float(((a**2 - (a**2).mean()) * (b**2 - (b**2).mean())).mean() / ((a**2).std() * (b**2).std()))
        limit = 5 / a.numel() ** 0.5
        assert abs(correlation) < limit, what
        assert abs(squares) < limit * 2, what


def test_every_bit_is_fair():
    bits = fields.random_bits(randomness.bits(0, torch.arange(300)), 4000)
    for place in range(32):
        share = ((bits >> place) & 1).double().mean().item()
        assert abs(share - 0.5) < 5 * 0.5 / bits.numel() ** 0.5, place


def test_level_zero_changes_nothing():
    images = torch.randint(0, 256, (8, 3, 9, 13), dtype=torch.uint8)
    for name in ("noise", "saltpepper", "blur"):
        assert torch.equal(degrade(images, name, 0, seed=0), images)
