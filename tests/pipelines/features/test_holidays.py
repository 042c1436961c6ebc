"""Holidays against dates that anyone can look up."""

from __future__ import annotations

from datetime import date, datetime

import polars as pl
import pytest

from pipelines.features.holidays import holiday


@pytest.mark.parametrize(
    ("region", "day", "expected"),
    [
        ("US", date(2013, 1, 1), 1),
        ("US", date(2013, 7, 4), 1),
        ("US", date(2013, 11, 28), 1),  # Thanksgiving
        ("US", date(2012, 11, 22), 1),  # Thanksgiving of another year
        ("US", date(2013, 11, 29), 0),
        ("DE", date(2024, 10, 3), 1),
        ("DE", date(2024, 7, 4), 0),
        ("DE-BY", date(2024, 11, 1), 1),  # All Saints: Bavaria, not Berlin
        ("DE-BE", date(2024, 11, 1), 0),
        ("FR", date(2024, 7, 14), 1),
    ],
)
def test_known_dates(region: str, day: date, expected: int) -> None:
    assert holiday(pl.Series([day]), region).tolist() == [[expected]]


def test_the_local_date_counts() -> None:
    """In New York it is still the fourth of July when Greenwich has the fifth."""
    instant = pl.Series([datetime(2013, 7, 5, 3, 30)]).dt.replace_time_zone("UTC")
    assert holiday(instant, "US").tolist() == [[0]]
    assert holiday(instant.dt.convert_time_zone("America/New_York"), "US").tolist() == [[1]]


def test_every_hour_of_the_day_counts() -> None:
    times = pl.datetime_range(
        datetime(2013, 12, 24, 22), datetime(2013, 12, 26, 1), "1h", eager=True
    )
    assert holiday(times, "US").ravel().tolist() == [0] * 2 + [1] * 24 + [0] * 2
