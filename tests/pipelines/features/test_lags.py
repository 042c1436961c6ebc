"""Lags: none looks ahead, none twice."""

from __future__ import annotations

import pytest

from pipelines.features.lags import check_lags
from tsformer.errors import ConfigError


def test_a_lag_shorter_than_the_horizon_is_refused() -> None:
    """Its last steps would need values that are yet to come."""
    check_lags([168, 24], horizon=24)
    with pytest.raises(ConfigError, match="a lag of 23 steps looks beyond the cutoff"):
        check_lags([168, 23], horizon=24)


def test_a_lag_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="lag 168 is named more than once"):
        check_lags([168, 168], horizon=24)
