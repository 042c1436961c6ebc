"""The Diebold-Mariano test: worked by hand, against closed forms, and its size where nothing differs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipelines.diebold_mariano import (
    LEAST_APART,
    DieboldMariano,
    bartlett,
    diebold_mariano,
    lag_for,
    overlap_correlations,
    share_seen,
)

Floats = NDArray[np.float64]


def judged(differences: Floats, *, overlap: int) -> DieboldMariano:
    lag = lag_for(len(differences), overlap=overlap)
    return diebold_mariano(differences, overlap=overlap, lag=lag)


def test_a_table_worked_by_hand() -> None:
    """Four differences, lag 1, on paper: a wrong sign or divisor would decide who is served."""
    differences = np.array([-3.0, -1.0, -2.0, 2.0])
    # mean -1; centred -2, 0, -1, 3; autocovariances (4 + 0 + 1 + 9) / 4 = 3.5 and
    # (0 + 0 - 3) / 4 = -0.75; with the weights 1 and 1/2: 3.5 - 0.75 = 2.75.
    # Seen of independent differences: 1 - (1 + 2 * 1/2 * 3/4) / 4 = 0.5625.
    # Degrees of freedom: 3 / (1 + 2 * 1/4) = 2.
    found = diebold_mariano(differences, overlap=0, lag=1)
    assert found.mean == -1
    assert found.statistic == pytest.approx(-1 / np.sqrt(2.75 / 0.5625 / 4), rel=1e-12)
    assert found.degrees == pytest.approx(2)
    # Student's t with 2 degrees of freedom in closed form: 1/2 + t / (2 sqrt(2 + t^2))
    t = found.statistic
    assert found.p == pytest.approx(0.5 + t / (2 * np.sqrt(2 + t**2)), rel=1e-12)
    assert (found.cutoffs, found.apart, found.lag) == (4, 4, 1)


def test_without_lags_it_is_the_paired_t_test() -> None:
    """Independent cutoffs are the one case that every textbook agrees on."""
    random = np.random.default_rng(0)
    for count in (2, 5, 30):
        first, second = random.normal(size=(2, count))
        found = diebold_mariano(first - second, overlap=0, lag=0)
        known = stats.ttest_rel(first, second, alternative="less")
        assert found.statistic == pytest.approx(known.statistic, rel=1e-10)
        assert found.degrees == pytest.approx(count - 1)
        assert found.p == pytest.approx(known.pvalue, rel=1e-10)


@pytest.mark.parametrize(("count", "horizon"), [(10, 1), (20, 4), (48, 12)])
def test_the_small_sample_factor_is_that_of_its_paper(count: int, horizon: int) -> None:
    """Harvey, Leybourne & Newbold, equation 9, for the flat weights that they have."""
    flat = (np.arange(count) < horizon).astype(float)
    independent = bartlett(count, 0)
    published = (count + 1 - 2 * horizon + horizon * (horizon - 1) / count) / count
    assert share_seen(flat, independent) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize(("count", "overlap", "lag"), [(12, 3, 6), (30, 0, 2), (25, 11, 22)])
def test_the_share_seen_is_what_matrices_say(count: int, overlap: int, lag: int) -> None:
    """The fast sums against the definition: the trace of W M R M."""
    apart = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    weights, correlations = bartlett(count, lag), overlap_correlations(count, overlap)
    without_mean = np.eye(count) - 1 / count
    matrix = weights[apart] @ without_mean @ correlations[apart] @ without_mean
    expected = np.trace(matrix) / correlations[apart].sum()
    assert share_seen(weights, correlations) == pytest.approx(expected, rel=1e-10)


def test_overlapping_means_are_correlated_as_assumed() -> None:
    """Means of 4 independent errors that move by one share 3, 2, 1 of 4."""
    errors = np.random.default_rng(1).normal(size=400_000)
    means = np.convolve(errors, np.ones(4) / 4, "valid")
    found = [np.corrcoef(means[lag:], means[: len(means) - lag])[0, 1] for lag in range(6)]
    assert found == pytest.approx(overlap_correlations(6, 3), abs=0.01)


@pytest.mark.parametrize(
    ("cutoffs", "overlap", "persistence"),
    [
        (16, 3, 0.0),
        (37, 6, 0.0),
        (69, 11, 0.5),
        (117, 23, 0.0),
        (50, 0, 0.0),
        (50, 0, 0.3),
    ],
)
def test_equal_forecasters_are_told_apart_as_rarely_as_promised(
    cutoffs: int, overlap: int, persistence: float
) -> None:
    """At 5 % about one lucky model in twenty may pass, also where horizons overlap: the usual
    test, which forgets that, passes one in eight."""
    random = np.random.default_rng(2)
    rounds, horizon = 1_000, overlap + 1
    errors = random.normal(size=(rounds, cutoffs + horizon + 50))
    for step in range(1, errors.shape[1]):
        errors[:, step] += persistence * errors[:, step - 1]
    steps = np.lib.stride_tricks.sliding_window_view(errors[:, 51:], horizon, axis=1)
    means = steps.mean(-1)
    assert means.shape == (rounds, cutoffs)
    rejected = np.mean([judged(row, overlap=overlap).p < 0.05 for row in means])
    assert 0.025 <= rejected <= 0.08


def test_a_difference_that_lasts_is_found() -> None:
    """A test that never says yes keeps every old champion for ever."""
    random = np.random.default_rng(3)
    errors = random.normal(size=(300, 120))
    means = np.lib.stride_tricks.sliding_window_view(errors, 12, axis=1).mean(-1)
    better = means - 4 * means.mean(1).std()
    assert np.mean([judged(row, overlap=11).p < 0.05 for row in better]) > 0.85


def test_what_series_share_is_one_observation() -> None:
    """100 copies of one series are no more evidence than the one: the mean over them is tested."""
    one = np.random.default_rng(4).normal(-0.2, 1, size=40)
    copies = np.tile(one, (100, 1))
    alone, together = judged(one, overlap=0), judged(copies.mean(0), overlap=0)
    assert together.p == pytest.approx(alone.p)


def test_equal_losses_prove_nothing_and_equal_differences_all() -> None:
    """Neither may divide by zero: a tie is no win, and a constant gain no chance."""
    same = judged(np.zeros(20), overlap=0)
    assert (same.statistic, same.p) == (0, 0.5)
    assert judged(np.full(20, -0.1), overlap=3).p == 0
    assert judged(np.full(20, 0.1), overlap=3).p == 1


def test_a_loss_that_is_not_a_number_proves_nothing() -> None:
    """NaN compares as neither, so it must never end as a probability of 0."""
    for broken in (np.nan, np.inf, -np.inf):
        found = judged(np.array([broken, *np.zeros(19)]), overlap=0)
        assert not found.p < 0.5
    for count in (0, 1):
        found = judged(np.full(count, -1.0), overlap=0)
        assert not found.p < 0.5
        assert not found.enough


def test_too_few_cutoffs_are_not_enough() -> None:
    """Three weeks of daily cutoffs, each a week ahead, are three observations."""
    assert not judged(np.arange(21.0), overlap=6).enough
    assert judged(np.arange(28.0), overlap=6).enough
    assert LEAST_APART == 4


@pytest.mark.parametrize(
    ("cutoffs", "overlap", "lag"), [(37, 6, 12), (100, 0, 4), (10, 0, 2), (5, 9, 3), (2, 0, 0)]
)
def test_the_lag_covers_the_overlap(cutoffs: int, overlap: int, lag: int) -> None:
    assert lag_for(cutoffs, overlap=overlap) == lag
