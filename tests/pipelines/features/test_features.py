"""The table of features: every one keeps the laws that make it safe to use ahead of time."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from pipelines.features import FEATURES, feature_names, known_features
from pipelines.frequency import Frequency
from tsformer.errors import ConfigError

HOURLY = Frequency.parse("h")
NAMES = [kind if feature.check is None else f"{kind}:US" for kind, feature in FEATURES.items()]
ZONES = [None, "UTC", "America/New_York", "Australia/Lord_Howe"]


def stamps(start: datetime, end: datetime, step: str, zone: str | None = None) -> pl.Series:
    return pl.select(pl.datetime_range(start, end, step, closed="left", time_zone=zone)).to_series()


YEAR = stamps(datetime(2013, 1, 1), datetime(2014, 1, 1), "1h", "America/New_York")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_later_than_the_cutoff_changes_a_feature(name: str) -> None:
    """A feature that looked at other rows would know in training what it cannot know in service."""
    cutoff = 3000
    whole = known_features([name], YEAR, HOURLY)
    alone = known_features([name], YEAR[:cutoff], HOURLY)
    other_future = pl.concat([YEAR[:cutoff], YEAR[cutoff:].dt.offset_by("3y")])
    np.testing.assert_array_equal(alone, whole[:cutoff])
    np.testing.assert_array_equal(known_features([name], other_future, HOURLY)[:cutoff], alone)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_same_features_wherever_it_stands(name: str) -> None:
    order = np.random.default_rng(0).permutation(len(YEAR))
    whole = known_features([name], YEAR, HOURLY)
    np.testing.assert_array_equal(known_features([name], YEAR.gather(order), HOURLY), whole[order])


@pytest.mark.parametrize("zone", ZONES)
def test_shape_type_and_range(zone: str | None) -> None:
    times = stamps(datetime(2012, 2, 27), datetime(2012, 3, 3), "30m", zone)
    values = known_features(NAMES, times, Frequency.parse("30min"))
    assert values.shape == (len(times), len(feature_names(NAMES)))
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 1


def test_columns_are_in_the_order_of_the_names() -> None:
    both = known_features(["weekday", "hour"], YEAR, HOURLY)
    np.testing.assert_array_equal(both[:, :2], known_features(["weekday"], YEAR, HOURLY))
    np.testing.assert_array_equal(both[:, 2:], known_features(["hour"], YEAR, HOURLY))
    assert feature_names(["weekday", "hour", "holidays:US"]) == (
        "weekday_cos",
        "weekday_sin",
        "hour_cos",
        "hour_sin",
        "holidays:US",
    )


def test_no_names_make_no_columns() -> None:
    assert known_features([], YEAR, HOURLY).shape == (len(YEAR), 0)
    assert known_features([], pl.Series([1, 2, 3]), Frequency.parse(1)).shape == (3, 0)
    assert feature_names([]) == ()


def test_no_rows_make_no_rows() -> None:
    assert known_features(NAMES, YEAR[:0], HOURLY).shape == (0, len(feature_names(NAMES)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("weekdya", "Did you mean 'weekday'"),
        ("holidays", "holidays:US"),
        ("holidays:us", "Did you mean 'US'"),
        ("holidays:US-NYC", "Did you mean 'NY'"),
        ("hour:2", "takes no argument"),
    ],
)
def test_bad_names_are_refused_with_the_remedy(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        feature_names([name])
    with pytest.raises(ConfigError, match=says):
        known_features([name], YEAR, HOURLY)


def test_a_repeated_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than once"):
        feature_names(["hour", "weekday", "hour"])


@pytest.mark.parametrize(
    ("name", "frequency", "useful"),
    [
        ("hour", "h", True),
        ("hour", "15min", True),
        ("hour", "12h", True),
        ("hour", "24h", False),
        ("hour", "D", False),
        ("weekday", "D", True),
        ("weekday", "B", True),
        ("weekday", "W-SUN", False),
        ("weekday", "7D", False),
        ("monthday", "W-MON", True),
        ("monthday", "MS", False),
        ("month", "MS", True),
        ("month", "QE", True),
        ("month", "YS", False),
        ("yearday", "W", True),
        ("holidays:US", "D", True),
        ("holidays:US", "W", False),
    ],
)
def test_a_cycle_shorter_than_the_steps_is_refused(name: str, frequency: str, useful: bool) -> None:
    """`hour` of daily data is a constant that would look like a covariate."""
    times = stamps(datetime(2020, 1, 1), datetime(2020, 3, 1), "1d")
    if useful:
        known_features([name], times, Frequency.parse(frequency))
    else:
        with pytest.raises(ConfigError, match="says nothing at frequency"):
            known_features([name], times, Frequency.parse(frequency))


def test_step_numbers_have_no_calendar() -> None:
    with pytest.raises(ConfigError, match="step numbers"):
        known_features(["month"], pl.Series([1, 2, 3]), Frequency.parse(1))
    with pytest.raises(ConfigError, match="no length in time"):
        known_features(["month"], YEAR, Frequency.parse(1))
