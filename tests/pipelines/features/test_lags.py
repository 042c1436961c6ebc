"""Lags: what training saw is what service computes, and no lag looks ahead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.features.lags import lagged
from tsformer.errors import ConfigError


def test_values_of_a_worked_example() -> None:
    columns = lagged(np.array([1.0, 2.0, np.nan, 4.0]), lags=[2, 3], horizon=2, ahead=2)
    expected = [[np.nan, np.nan], [np.nan, np.nan], [1, np.nan], [2, 1], [np.nan, 2], [4, np.nan]]
    np.testing.assert_array_equal(columns, expected)


@given(
    rows=st.integers(1, 60),
    horizon=st.integers(1, 12),
    more=st.lists(st.integers(0, 80), min_size=1, max_size=4, unique=True),
    cutoff=st.integers(0, 60),
)
def test_nothing_later_than_the_cutoff_changes_a_lag(
    rows: int, horizon: int, more: list[int], cutoff: int
) -> None:
    """Columns of the training rows up to the end of the horizon = columns computed at the cutoff."""
    cutoff = min(cutoff, rows)
    lags = [horizon + extra for extra in more]
    target = np.random.default_rng(rows).normal(size=rows)
    ahead = min(horizon, rows - cutoff)
    training = lagged(target, lags=lags, horizon=horizon)
    service = lagged(target[:cutoff], lags=lags, horizon=horizon, ahead=ahead)
    np.testing.assert_array_equal(service, training[: cutoff + ahead])


def test_a_lag_shorter_than_the_horizon_is_refused() -> None:
    with pytest.raises(ConfigError, match="a lag of 23 steps looks beyond the cutoff"):
        lagged(np.zeros(100), lags=[168, 23], horizon=24)


def test_rows_beyond_the_horizon_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 25"):
        lagged(np.zeros(100), lags=[24], horizon=24, ahead=25)
