"""Where a time stamp lies in the cycles of the local calendar, as points on circles.

A cycle is two columns, cosine and sine, so that its end meets its beginning: 23:00 lies next to
0:00, which no single number can say. Stamps with a time zone are read in local time, so across a
clock change `hour` follows the people and not the sun.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MINUTES_PER_DAY = 24 * 60
DAYS_PER_WEEK = 7
MONTHS_PER_YEAR = 12


def hour(times: pl.Series) -> Floats:
    """The time of day, to the minute `[time, 2]`."""
    minutes = times.dt.hour().cast(pl.Int32) * 60 + times.dt.minute()
    return circle(minutes, MINUTES_PER_DAY)


def weekday(times: pl.Series) -> Floats:
    """The day of the week; Monday is at angle 0 `[time, 2]`."""
    return circle(times.dt.weekday() - 1, DAYS_PER_WEEK)


def monthday(times: pl.Series) -> Floats:
    """The day of the month, each month a full turn, whether of 28 or 31 days `[time, 2]`."""
    return circle(times.dt.day() - 1, times.dt.days_in_month())


def month(times: pl.Series) -> Floats:
    """The month of the year; January is at angle 0 `[time, 2]`."""
    return circle(times.dt.month() - 1, MONTHS_PER_YEAR)


def yearday(times: pl.Series) -> Floats:
    """The day of the year, each year a full turn, whether of 365 or 366 days `[time, 2]`."""
    days = times.dt.is_leap_year().cast(pl.Int32) + 365
    return circle(times.dt.ordinal_day() - 1, days)


def circle(position: pl.Series, period: pl.Series | int) -> Floats:
    """Cosine and sine of `position / period` turns `[time, 2]`."""
    turns = position.to_numpy() / (period if isinstance(period, int) else period.to_numpy())
    angle = 2 * np.pi * turns
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
