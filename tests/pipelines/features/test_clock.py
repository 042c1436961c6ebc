"""Clock features: exact positions, right across clock changes, and without a seam."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from pipelines.features import clock

Cycle = Callable[[pl.Series], clock.Floats]
CYCLES = [clock.hour, clock.weekday, clock.monthday, clock.month, clock.yearday]


def turns(cycle: Cycle, *times: datetime | date) -> list[float]:
    """Where the stamps lie on the circle, in turns from 0 to 1."""
    points = cycle(pl.Series(times))
    return [*np.mod(np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi), 1).round(9)]


@pytest.mark.parametrize("cycle", CYCLES)
def test_points_lie_on_the_unit_circle(cycle: Cycle) -> None:
    times = pl.datetime_range(datetime(2023, 12, 1), datetime(2025, 2, 1), "7h", eager=True)
    np.testing.assert_allclose((cycle(times) ** 2).sum(axis=1), 1)


def test_hour_is_the_time_of_day_to_the_minute() -> None:
    day = datetime(2024, 5, 17)
    at = [day + timedelta(hours=h) for h in (0, 6, 12, 18.5)]
    assert turns(clock.hour, *at) == pytest.approx([0, 0.25, 0.5, 18.5 / 24])


def test_weekday_starts_on_monday() -> None:
    """13 May 2024 was a Monday."""
    assert turns(clock.weekday, date(2024, 5, 13), date(2024, 5, 19)) == pytest.approx([0, 6 / 7])


def test_monthday_fills_every_month() -> None:
    ends = [date(2023, 2, 28), date(2024, 2, 29), date(2024, 4, 30), date(2024, 5, 31)]
    assert turns(clock.monthday, *ends) == pytest.approx([27 / 28, 28 / 29, 29 / 30, 30 / 31])
    assert turns(clock.monthday, date(2024, 5, 1)) == [0]


def test_month_and_yearday() -> None:
    assert turns(clock.month, date(2024, 1, 31), date(2024, 10, 1)) == pytest.approx([0, 0.75])
    ends = [date(2023, 12, 31), date(2024, 12, 31)]
    assert turns(clock.yearday, *ends) == pytest.approx([364 / 365, 365 / 366])
    assert turns(clock.yearday, date(2024, 1, 1)) == [0]


@pytest.mark.parametrize(
    ("cycle", "period"),
    [(clock.hour, "1d"), (clock.weekday, "1w"), (clock.month, "1y")],
    ids=["hour", "weekday", "month"],
)
def test_cycles_repeat_after_their_period(cycle: Cycle, period: str) -> None:
    times = pl.datetime_range(datetime(2021, 1, 1), datetime(2021, 3, 1), "11h", eager=True)
    np.testing.assert_array_equal(cycle(times), cycle(times.dt.offset_by(period)))


@pytest.mark.parametrize("cycle", CYCLES)
def test_the_end_meets_the_beginning(cycle: Cycle) -> None:
    """No step is longer than the others: one number from 0 to 1 would jump once a cycle."""
    times = pl.datetime_range(datetime(2023, 1, 1), datetime(2025, 1, 1), "1h", eager=True)
    steps = np.linalg.norm(np.diff(cycle(times), axis=0), axis=1)
    # the widest is a step of a whole month or day; February's days are 31/28 wider than May's
    assert steps.max() <= 1.2 * np.median(steps[steps > 1e-9])


@pytest.mark.parametrize(
    ("first", "local_hours"),
    [(datetime(2013, 3, 10), [0, 1, 3, 4]), (datetime(2013, 11, 3), [0, 1, 1, 2])],
    ids=["spring forward", "fall back"],
)
def test_local_hours_across_a_clock_change(first: datetime, local_hours: list[int]) -> None:
    """People fly by the clock on the wall: 8:00 must be 8:00 in July and in January."""
    start = pl.Series([first]).dt.replace_time_zone("America/New_York")
    times = pl.concat([start.dt.offset_by(f"{h}h") for h in range(4)])
    points = clock.hour(times)
    hours = np.mod(np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) * 24, 24)
    np.testing.assert_allclose(hours, local_hours, atol=1e-9)
