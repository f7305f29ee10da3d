"""The statistics against scipy, exhaustive enumeration, worked examples and plain loops."""

import itertools
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from fusiondistill import statistics
from fusiondistill.statistics import (
    accuracy,
    average,
    bootstrap_intervals,
    expected_calibration_error,
    holm,
    interpolated_mean,
    level_weights,
    mean_interval,
    ratio_half,
    ratio_intervals,
    sign_flip_tests,
)

Array = NDArray[np.float64]


def correctness(rng: np.random.Generator, n: int, better: float, steps: int = 12) -> tuple[Array, Array]:
    """Two methods' mean correctness per image, in steps as levels x seeds give them; the first is better."""
    hard = rng.uniform(0.2, 0.9, n)
    a = rng.binomial(steps, np.clip(hard + better, 0, 1)) / steps
    return a, rng.binomial(steps, hard) / steps


def paired_p(a: Array, b: Array, *, seed: int, resamples: int) -> float:
    """The p-value of a single pair."""
    return sign_flip_tests([np.subtract(a, b)], seed=seed, resamples=resamples)[0]


def paired_interval(a: Array, b: Array, *, seed: int, resamples: int) -> tuple[float, float]:
    """The interval of a single pair."""
    return bootstrap_intervals([np.subtract(a, b)], seed=seed, resamples=resamples)[0]


def test_accuracy_weighs_levels_not_images() -> None:
    assert accuracy([1, 50], [10, 50]) == pytest.approx((0.1 + 1.0) / 2)
    assert accuracy([1, 50], [10, 50]) != pytest.approx(51 / 60)


@pytest.mark.parametrize(
    ("right", "seen"), [([], []), ([1], [0]), ([3], [2]), ([-1], [2]), ([1, 2], [3]), ([[1]], [[1]])]
)
def test_impossible_counts_are_refused(right: list[int], seen: list[int]) -> None:
    with pytest.raises(ValueError, match=r"level"):
        accuracy(right, seen)


def test_average_is_missing_as_soon_as_a_part_is() -> None:
    assert average([1.0, 2.0, 6.0]) == 3.0
    assert average(iter([0.0])) == 0.0
    assert average([1.0, None]) is None
    assert average([]) is None


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_mean_interval_is_student_t(n: int, confidence: float) -> None:
    values = np.random.default_rng(n).normal(60, 2, n)
    ours = mean_interval(values, confidence)
    assert ours.half is not None
    low, high = scipy.stats.t.interval(confidence, n - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    assert (ours.mean - ours.half, ours.mean + ours.half) == pytest.approx((low, high), rel=1e-12)
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert (ours.mean - ours.half, ours.mean + ours.half) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert ours.n == n
    assert ours.deviation == pytest.approx(np.std(values, ddof=1))


def test_mean_interval_of_one_value_has_no_width() -> None:
    assert mean_interval([61.5]) == statistics.Interval(61.5, None, None, 1)
    assert mean_interval([2.0, 2.0]).half == 0.0
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], 95)


def test_intervals_over_seeds_hold_the_true_mean_as_often_as_they_say() -> None:
    draws = np.random.default_rng(0).normal(70, 3, (4000, 3))
    intervals = [mean_interval(draw) for draw in draws]
    assert np.mean([abs(i.mean - 70) <= (i.half or 0) for i in intervals]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("seed", range(4))
def test_permutation_test_agrees_with_enumerating_all_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = correctness(rng, 11, 0.15, steps=4)  # coarse steps: many sign draws tie with the observed sum
    d = a - b
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((-1, 1), repeat=11)]
    exact = np.mean([total >= abs(d.sum()) - 1e-9 for total in sums])
    resamples = 40_000
    ours = paired_p(a, b, seed=seed, resamples=resamples)
    assert ours == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / resamples) + 2 / resamples)


def test_permutation_test_agrees_with_scipy() -> None:
    a, b = correctness(np.random.default_rng(5), 200, 0.02)
    theirs = scipy.stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=20_000, rng=np.random.default_rng(0),
    )  # fmt: skip
    ours = paired_p(a, b, seed=1, resamples=20_000)
    assert 0.01 < ours < 0.9
    assert ours == pytest.approx(theirs.pvalue, abs=0.015)


def test_permutation_test_is_two_sided_never_zero_and_one_without_a_difference() -> None:
    a = np.linspace(0, 1, 300)
    assert paired_p(a, a, seed=0, resamples=99) == 1.0
    assert paired_p(a + 0.1, a, seed=0, resamples=99) == 1 / 100
    assert paired_p(a, a + 0.1, seed=0, resamples=99) == 1 / 100


def test_permutation_test_rarely_cries_wolf() -> None:
    rng = np.random.default_rng(11)
    found = [paired_p(*correctness(rng, 60, 0.0), seed=i, resamples=199) <= 0.05 for i in range(400)]
    assert 0.02 <= np.mean(found) <= 0.085


def test_resampling_is_addressed_and_independent_of_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = correctness(np.random.default_rng(2), 130, 0.03)
    whole = paired_p(a, b, seed=3, resamples=1000)
    interval = paired_interval(a, b, seed=3, resamples=1000)
    assert paired_p(a, b, seed=4, resamples=1000) != whole
    assert paired_interval(a, b, seed=4, resamples=1000) != interval
    monkeypatch.setattr(statistics, "_CHUNK", 1000)
    assert paired_p(a, b, seed=3, resamples=1000) == whole
    assert paired_interval(a, b, seed=3, resamples=1000) == interval


def test_bootstrap_interval_agrees_with_scipy_and_the_normal_one() -> None:
    a, b = correctness(np.random.default_rng(6), 800, 0.05)
    low, high = paired_interval(a, b, seed=0, resamples=4000)
    theirs = scipy.stats.bootstrap(
        (a - b,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0)
    ).confidence_interval
    spread = scipy.stats.sem(a - b)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.2 * spread)
    middle = (a - b).mean()
    assert (low, high) == pytest.approx((middle - 1.96 * spread, middle + 1.96 * spread), abs=0.2 * spread)
    assert low < middle < high


def test_memory_stays_bounded() -> None:
    a, b = correctness(np.random.default_rng(7), 20_000, 0.01)
    for test in (paired_p, paired_interval):
        tracemalloc.start()
        test(a, b, seed=0, resamples=600)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150e6, f"{test.__name__}: {peak / 1e6:.0f} MB"


def test_holm_on_a_worked_example() -> None:
    # 0.01 * 4, then 0.02 * 3, 0.03 * 2 = 0.06 and 0.04 * 1 raised to 0.06 (0.04 would fall below its neighbour).
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_decides_as_the_step_down_procedure_does() -> None:
    rng = np.random.default_rng(8)
    for _ in range(200):
        p = rng.beta(0.5, 3, rng.integers(1, 8))
        rejected = set()
        for step, i in enumerate(np.argsort(p)):  # Holm, 1979: go down the list, stop at the first that fails
            if p[i] > 0.05 / (len(p) - step):
                break
            rejected.add(int(i))
        assert {i for i, value in enumerate(holm(p)) if value <= 0.05} == rejected


@pytest.mark.parametrize("p", [[-0.1], [1.1], [float("nan")]])
def test_holm_refuses_what_is_no_probability(p: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(p)


def test_interpolated_mean_by_hand() -> None:
    # Levels 0..6: 10 (nearest), 10, 12, 14, 16, 6, 6 (nearest).
    assert interpolated_mean([1, 4, 5], [10.0, 16.0, 6.0], range(7)) == pytest.approx(
        (10 + 10 + 12 + 14 + 16 + 6 + 6) / 7
    )
    assert interpolated_mean([3], [0.5], range(1, 102)) == 0.5
    values = np.random.default_rng(0).random(26)
    assert interpolated_mean(np.arange(26), values, range(26)) == pytest.approx(values.mean()), (
        "all measured: a plain mean"
    )


def test_the_weights_of_levels_are_their_shares_in_the_interpolated_mean() -> None:
    # Levels 0..6 as above: 0 and 1 are the first, 2 and 3 a third each way, 5 and 6 the last.
    weights = level_weights([1, 4, 5], range(7))
    assert weights == pytest.approx(np.array([2 + 2 / 3 + 1 / 3, 1 / 3 + 2 / 3 + 1, 2]) / 7)
    rng = np.random.default_rng(1)
    levels = np.sort(rng.choice(101, 17, replace=False))
    values = rng.random(17)
    expected = np.interp(np.arange(101), levels, values).mean()
    assert level_weights(levels, range(101)) @ values == pytest.approx(expected, abs=1e-12)
    assert interpolated_mean(levels, values, range(101)) == pytest.approx(expected, abs=1e-12)
    assert level_weights(levels, range(101)).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("levels", "values"), [([], []), ([1, 0], [1, 1]), ([0, 9], [1, 1]), ([0, 1], [1])])
def test_interpolated_mean_refuses_what_is_no_measurement(levels: list[int], values: list[float]) -> None:
    with pytest.raises(ValueError, match="measured"):
        interpolated_mean(levels, values, range(6))


def test_many_pairs_at_once_give_what_single_pairs_give() -> None:
    rng = np.random.default_rng(4)
    methods = [rng.binomial(12, rng.uniform(0.3, 0.7), 150) / 12 + rng.uniform(0, 1e-6, 150) for _ in range(4)]
    pairs = list(itertools.combinations(methods, 2))
    rows = [a - b for a, b in pairs]
    assert sign_flip_tests(rows, seed=3, resamples=500) == [paired_p(a, b, seed=3, resamples=500) for a, b in pairs]
    drawn = np.random.Generator(np.random.Philox(key=statistics._key("bootstrap", 3))).integers(150, size=(500, 150))
    single = [np.quantile(row[drawn].mean(axis=1), [0.025, 0.975]) for row in rows]
    assert np.array(bootstrap_intervals(rows, seed=3, resamples=500)) == pytest.approx(np.array(single), abs=1e-12)


def test_many_pairs_with_ties_and_zeros_agree_with_enumerating_all_signs() -> None:
    rng = np.random.default_rng(9)
    rows = [np.subtract(*correctness(rng, 11, better, steps=3)) for better in (0.0, 0.1, 0.3)]
    rows.append(np.zeros(11))
    found = sign_flip_tests(rows, seed=0, resamples=40_000)
    for d, ours in zip(rows, found, strict=True):
        sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=11)]
        exact = np.mean([total >= abs(d.sum()) - 1e-9 for total in sums])
        assert ours == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000) + 2 / 40_000)
    assert found[-1] == 1.0
    assert bootstrap_intervals(rows, seed=0, resamples=100)[-1] == (0.0, 0.0)


def test_many_pairs_are_independent_of_the_chunks_and_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(2).normal(0.02, 0.2, (3, 130))
    flips, intervals = sign_flip_tests(rows, seed=3, resamples=900), bootstrap_intervals(rows, seed=3, resamples=900)
    assert sign_flip_tests(rows[1:2], seed=3, resamples=900) == flips[1:2]
    monkeypatch.setattr(statistics, "_CHUNK", 1000)
    assert sign_flip_tests(rows, seed=3, resamples=900) == flips
    again = np.array(bootstrap_intervals(rows, seed=3, resamples=900))
    assert again == pytest.approx(np.array(intervals), abs=1e-12)


@pytest.mark.parametrize("test", [sign_flip_tests, bootstrap_intervals])
def test_many_pairs_refuse_what_is_no_matrix(test: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="shape"):
        test([0.5, 1.0], seed=0)
    with pytest.raises(ValueError, match="finite"):
        test([[0.5, float("nan")]], seed=0)
    with pytest.raises(ValueError, match="resample"):
        test([[0.5]], seed=0, resamples=0)


def test_calibration_error_against_a_loop_over_bins_and_worked_examples() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.1, 1, 2000)
    sure[:30] = np.arange(1, 31) / 30  # on the edges of bins
    right = rng.uniform(size=2000) < sure**2
    expected = 0.0
    for m in range(1, 16):
        inside = (sure > (m - 1) / 15) & (sure <= m / 15)
        expected += inside.sum() / 2000 * abs(right[inside].mean() - sure[inside].mean())
    assert expected_calibration_error(sure, right) == pytest.approx(expected, abs=1e-3)
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0
    assert expected_calibration_error([1.0, 1.0], [False, False]) == 1
    assert expected_calibration_error([0.0], [False]) == 0
    assert expected_calibration_error([0.3, 0.5], [False, True], bins=1) == pytest.approx(0.1)
    for wrong in (([], []), ([0.5], [True, False]), ([1.5], [True]), ([np.nan], [True])):
        with pytest.raises(ValueError, match="confidence"):
            expected_calibration_error(*wrong)


def test_the_interval_of_a_ratio_is_that_of_ratios_of_drawn_means() -> None:
    rng = np.random.default_rng(3)
    below = rng.normal(0.3, 0.5, (2, 60))
    above = 0.8 * below + rng.normal(0, 0.2, (2, 60))
    found = ratio_intervals(above, below, seed=1, resamples=4000)
    drawn = np.random.default_rng(0).integers(60, size=(20_000, 60))
    for i, interval in enumerate(found):
        ratios = above[i][drawn].mean(1) / below[i][drawn].mean(1)
        assert interval is not None
        np.testing.assert_allclose(interval, np.quantile(ratios, [0.025, 0.975]), atol=0.05)
    assert ratio_intervals(above[:1], below[:1], seed=1, resamples=4000) == found[:1]  # the draws of all pairs alike
    assert ratio_intervals(above, below - below.mean(), seed=1) == [None, None]  # the mean below may be 0
    with pytest.raises(ValueError, match="as many numbers above as below"):
        ratio_intervals(above, below[:1], seed=1)


def test_the_interval_of_a_ratio_over_seeds_holds_the_true_one_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(5), 0
    for _ in range(400):
        below = rng.normal(8, 1, 5)
        above = 0.9 * below + rng.normal(0, 0.8, 5)
        half = ratio_half(above, below)
        assert half is not None
        held += abs(above.mean() / below.mean() - 0.9) <= half
    assert 0.92 <= held / 400 <= 0.98
    assert ratio_half([1.0], [2.0]) is None
    with pytest.raises(ValueError, match="above 0"):
        ratio_half([1.0, 2.0], [-1.0, 1.0])
