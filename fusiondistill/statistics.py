"""Means, intervals over seeds, and paired tests over images: plain numbers in, plain numbers out.

Accuracies are fractions 0..1. Two kinds of chance are kept apart: another seed would have trained other networks
(:func:`mean_interval`), another draw of test images would have scored the same networks differently
(:func:`sign_flip_tests`, :func:`bootstrap_intervals`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "accuracy",
    "average",
    "bootstrap_intervals",
    "expected_calibration_error",
    "holm",
    "interpolated_mean",
    "level_weights",
    "mean_interval",
    "ratio_half",
    "ratio_intervals",
    "sign_flip_tests",
]

_CHUNK = 4_000_000  # resampled values held at once: 32 MB of float64


@dataclass(frozen=True)
class Interval:
    """The mean of n values and how well it is known, all in the unit of the values.

    ``deviation`` is the sample standard deviation (with n - 1) and ``half`` half the width of the confidence interval:
    mean - half .. mean + half. For one value both are None.
    """

    mean: float
    half: float | None
    deviation: float | None
    n: int


def accuracy(right: ArrayLike, seen: ArrayLike) -> float:
    """The accuracy under one degradation: the mean over its levels of right / seen, a fraction 0..1.

    Every level counts the same, however many images it saw. ``right`` and ``seen`` are counts, one per level.

    Raises:
        ValueError: no level, or counts that cannot be: none seen, or not 0 <= right <= seen.

    >>> accuracy([9, 5], [10, 10])
    0.7
    """
    rights, seens = np.asarray(right, dtype=np.float64), np.asarray(seen, dtype=np.float64)
    if rights.shape != seens.shape or rights.ndim != 1 or not rights.size:
        raise ValueError(f"one count right and one seen for each level, not shapes {rights.shape} and {seens.shape}")
    if not ((seens > 0) & (rights >= 0) & (rights <= seens)).all():
        raise ValueError("at every level 0 <= right <= seen, with at least one image seen")
    return float((rights / seens).mean())


def average(values: Iterable[float | None]) -> float | None:
    """The mean, in the unit of the values; None if one of them is missing, or if there are none.

    A mean over the present values alone would compare a method's easy degradations with another one's hard ones.

    >>> average([60.0, 62.0]), average([60.0, None])
    (61.0, None)
    """
    present: list[float] = []
    for value in values:
        if value is None:
            return None
        present.append(value)
    return math.fsum(present) / len(present) if present else None


def interpolated_mean(levels: ArrayLike, values: ArrayLike, wanted: Sequence[int]) -> float:
    """The mean over the wanted levels of values that were measured at some of them, in their unit.

    Between two measured levels the value is interpolated linearly; outside the measured range it is the nearest
    measured one.

    Args:
        levels: int [n], rising: the measured levels, within the ends of those wanted.
        values: float [n].
        wanted: the integer levels that the mean is over, rising.

    Raises:
        ValueError: no levels, levels that do not rise or lie outside of those wanted, or another number of values.

    >>> interpolated_mean([0, 2], [1.0, 0.0], range(4))  # 1, 0.5, 0, 0
    0.375
    """
    weights, measured = level_weights(levels, wanted), np.asarray(values, dtype=np.float64)
    if weights.shape != measured.shape:
        raise ValueError(f"one value for each measured level, not shapes {weights.shape} and {measured.shape}")
    return float(weights @ measured)


def level_weights(levels: ArrayLike, wanted: Sequence[int]) -> NDArray[np.float64]:
    """The share of each measured level in :func:`interpolated_mean`: float64 [n], they add up to 1.

    Raises:
        ValueError: no levels, or levels that do not rise or lie outside of those wanted.

    >>> level_weights([0, 2], range(4)).tolist()
    [0.375, 0.625]
    """
    at, every = np.asarray(levels, dtype=np.int64), np.asarray(wanted, dtype=np.int64)
    if at.ndim != 1 or not at.size or (np.diff(at) <= 0).any() or at[0] < every[0] or at[-1] > every[-1]:
        raise ValueError(f"measured levels must rise and lie within {every[0]}..{every[-1]}, not {at.tolist()}")
    return np.array([np.interp(every, at, alone).mean() for alone in np.eye(at.size)])


def expected_calibration_error(confidence: ArrayLike, right: ArrayLike, *, bins: int = 15) -> float:
    """How far confidence is from accuracy: ECE = sum over bins of |bin| / N * |accuracy - mean confidence|.

    The bins have equal width, ((m - 1) / bins, m / bins]; 0 belongs to the first one (Guo et al., 2017, section 2).

    Args:
        confidence: float [N], the probability given to the predicted class, 0..1.
        right: bool [N], whether it was the true class.
        bins: at least 1.

    Returns:
        A fraction, 0..1.

    Raises:
        ValueError: no images, other lengths, a confidence outside 0..1, or no bin.

    >>> round(expected_calibration_error([0.9, 0.9, 0.6], [True, True, False], bins=2), 4)
    0.1333
    """
    sure, correct = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if sure.shape != correct.shape or sure.ndim != 1 or not sure.size or bins < 1:
        raise ValueError(f"one confidence and one answer per image, in bins: {sure.shape}, {correct.shape}, {bins}")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("a confidence lies between 0 and 1")
    which = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(which, correct, bins) - np.bincount(which, sure, bins)
    return float(np.abs(gaps).sum() / sure.size)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean and Student-t confidence interval: mean +- t(n - 1, (1 + confidence) / 2) * deviation / sqrt(n).

    Args:
        values: one number per seed, n of them, any unit.
        confidence: how often such an interval holds the true mean, 0 < confidence < 1.

    Raises:
        ValueError: no values, or a confidence outside 0..1.

    >>> mean_interval([1.0, 2.0, 3.0]).mean, round(mean_interval([1.0, 2.0, 3.0]).half, 3)
    (2.0, 2.484)
    """
    data = np.asarray(values, dtype=np.float64).ravel()
    if not data.size:
        raise ValueError("the mean of no values")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    if data.size == 1:
        return Interval(float(data[0]), None, None, 1)
    from scipy.special import stdtrit  # the quantile alone: scipy.stats takes half a second to import

    deviation = float(data.std(ddof=1))
    half = float(stdtrit(data.size - 1, (1 + confidence) / 2)) * deviation / math.sqrt(data.size)
    return Interval(float(data.mean()), half, deviation, data.size)


def sign_flip_tests(differences: ArrayLike, *, seed: int, resamples: int = 10_000) -> list[float]:
    """Two-sided p-values of "a and b do equally well" for many pairs (a, b) of methods on the same test images.

    The unit is the test image. If two methods are exchangeable, each image's difference could have had the other sign;
    p = (1 + number of sign draws whose |mean| reaches the observed one) / (1 + resamples), never 0 (Phipson and Smyth,
    2010). It says nothing about other seeds, for which there is the interval over seeds. All pairs see the same sign
    draws (a function of the seed and N); their p-values depend on each other, which :func:`holm` allows.

    Args:
        differences: float [pairs, N], each image's mean correctness (over levels and seeds) of a minus that of b.
        resamples: draws of N signs; the smallest possible p is 1 / (1 + resamples).

    Raises:
        ValueError: not a matrix, no images, values that are not finite, or fewer than one resample.
    """
    rows = _difference_rows(differences, resamples)
    totals = rows.sum(axis=1)
    # Correctness comes in steps, so draws that equal the observed sum are common: rounding must not decide on them.
    thresholds = np.abs(totals) - 1e-9 * np.abs(rows).sum(axis=1)
    images = rows.shape[1]
    words = -(-images // 64)
    bits = np.random.Philox(key=_key("sign flip", seed))
    reached = np.zeros(len(rows), dtype=np.int64)
    for draws in _chunks(resamples, words * 64):
        drawn = bits.random_raw(draws * words).astype("<u8").reshape(draws, words)
        flips = np.unpackbits(drawn.view(np.uint8), axis=1, count=images).astype(np.float64)
        reached += (np.abs(totals - 2 * (flips @ rows.T)) >= thresholds).sum(axis=0)
    return [(1 + int(count)) / (1 + resamples) for count in reached]


def bootstrap_intervals(
    differences: ArrayLike, *, seed: int, resamples: int = 10_000, confidence: float = 0.95
) -> list[tuple[float, float]]:
    """Where mean(a) - mean(b) would lie for another draw of test images, for many pairs of methods: (low, high) each.

    This is the percentile bootstrap. Images are drawn with replacement, the same for all pairs (a function of the seed
    and N). A draw is held as how often each image came, so that the means are one matrix product. The unit is that of
    the differences. Arguments and errors are those of :func:`sign_flip_tests`; ``confidence`` lies between 0 and 1.
    """
    rows = _difference_rows(differences, resamples)
    ends = _ends(_drawn_means(rows, seed, resamples), confidence)
    return [(float(low), float(high)) for low, high in ends.T]


def ratio_intervals(
    above: ArrayLike, below: ArrayLike, *, seed: int, resamples: int = 10_000, confidence: float = 0.95
) -> list[tuple[float, float] | None]:
    """Where mean(above) / mean(below) would lie for another draw of test images: (low, high) for each row.

    The draws are those of :func:`bootstrap_intervals`, the same above and below. A row has None where the mean below is
    not above 0 in more than half of (1 - confidence) of the draws: a ratio says nothing there.

    Args:
        above, below: float [rows, N].
        seed, resamples, confidence: as for :func:`bootstrap_intervals`.

    Raises:
        ValueError: as :func:`bootstrap_intervals`; or other shapes.
    """
    tops, bottoms = _difference_rows(above, resamples), _difference_rows(below, resamples)
    if tops.shape != bottoms.shape:
        raise ValueError(f"as many numbers above as below, not shapes {tops.shape} and {bottoms.shape}")
    means = _drawn_means(np.concatenate([tops, bottoms]), seed, resamples)
    found: list[tuple[float, float] | None] = []
    for top, bottom in zip(means[:, : len(tops)].T, means[:, len(tops) :].T, strict=True):
        usable = bottom > 0
        if (~usable).mean() > (1 - confidence) / 2:
            found.append(None)
            continue
        low, high = _ends(top[usable] / bottom[usable], confidence)
        found.append((float(low), float(high)))
    return found


def ratio_half(above: ArrayLike, below: ArrayLike, confidence: float = 0.95) -> float | None:
    """Half the interval over seeds of mean(above) / mean(below), from the two figures of each seed; None for one seed.

    This is the ratio estimator of sampling theory: with R the ratio, the residuals above - R below have the deviation
    s, and the half is t(n - 1) s / (sqrt(n) mean(below)) (Cochran 1977, section 2.11).

    Args:
        above, below: float [n], a figure for each seed; the mean below is above 0.

    >>> round(ratio_half([1.0, 2.0], [2.0, 2.0]), 3)  # that of the mean of 0.5 and 1.0
    3.177
    """
    tops, bottoms = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if tops.shape != bottoms.shape or tops.ndim != 1 or not tops.size or bottoms.mean() <= 0:
        raise ValueError("a figure above and one below for each seed, with a mean below that is above 0")
    half = mean_interval(tops - tops.mean() / bottoms.mean() * bottoms, confidence).half
    return None if half is None else half / float(bottoms.mean())


def _ends(means: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    ends: NDArray[np.float64] = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return ends


def _drawn_means(rows: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    """The means of rows [R,N] over N images drawn with replacement, the same for all rows: float64 [resamples, R]."""
    images = rows.shape[1]
    generator = np.random.Generator(np.random.Philox(key=_key("bootstrap", seed)))
    means = []
    for draws in _chunks(resamples, images):
        drawn = generator.integers(images, size=(draws, images))
        drawn += np.arange(draws)[:, None] * images
        times = np.bincount(drawn.ravel(), minlength=draws * images).reshape(draws, images)
        means.append(times.astype(np.float64) @ rows.T / images)
    return np.concatenate(means)


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """Holm's correction for several tests: adjusted p-values, in the order given.

    With the p-values sorted upwards, the i-th of m (from 0) becomes the largest of p(j) * (m - j) over j <= i, at most
    1. If every adjusted value below 0.05 is called a difference, even one of these calls is wrong with probability 0.05
    at most, for any dependence between the tests (Holm, 1979).

    Raises:
        ValueError: a value outside 0..1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a p-value lies between 0 and 1")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * (values.size - np.arange(values.size))), 1)
    return [float(value) for value in adjusted]


def _difference_rows(differences: ArrayLike, resamples: int) -> NDArray[np.float64]:
    rows = np.asarray(differences, dtype=np.float64)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"a row of differences for each pair, one for each image, not shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("an image's correctness must be a finite number")
    if resamples < 1:
        raise ValueError(f"at least one resample, not {resamples}")
    return rows


def _key(purpose: str, seed: int) -> int:
    """128 bits for Philox: the address of a purpose's random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{purpose}\x1f{seed}".encode(), digest_size=16).digest(), "little")


def _chunks(resamples: int, width: int) -> Iterator[int]:
    """Cut the resamples into numbers of rows such that rows * width stays near _CHUNK."""
    most = max(1, _CHUNK // width)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)
