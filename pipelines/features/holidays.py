"""Public holidays by local date, from the `holidays` package: no network, no file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from functools import lru_cache

import holidays
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsformer.errors import ConfigError, nearest


def holiday(times: pl.Series, region: str) -> NDArray[np.float64]:
    """1 where the local date is a public holiday in `region`, else 0 `[time, 1]`.

    `region` is a country, `US`, or one of its parts, `US-NY`; see `check_region`.
    """
    days = times.dt.date()
    first, last = days.min(), days.max()
    if not isinstance(first, date) or not isinstance(last, date):
        return np.zeros((len(times), 1))
    dates = [day for year in range(first.year, last.year + 1) for day in _dates(region, year)]
    return days.is_in(dates).to_numpy().astype(np.float64)[:, None]


def check_region(region: str) -> None:
    """Raises ConfigError when nobody knows the holidays of `region`."""
    country, _, part = region.partition("-")
    parts = holidays.list_supported_countries()
    if country not in parts:
        raise _unknown(region, country, parts, "no country")
    if part and part not in parts[country]:
        raise _unknown(region, part, parts[country], f"no part of {country}")


def _unknown(region: str, came: str, valid: Iterable[str], kind: str) -> ConfigError:
    remedy = (
        f"{nearest(came.upper(), valid)} Write a country (holidays:US) or a part of one "
        "(holidays:US-NY)."
    )
    return ConfigError(
        f"features: 'holidays:{region}': '{came}' is {kind} whose holidays are known.{remedy}",
        told=f"features: 'holidays' names {kind} whose holidays are known.{remedy}",
    )


@lru_cache(maxsize=1024)
def _dates(region: str, year: int) -> tuple[date, ...]:
    country, _, part = region.partition("-")
    return tuple(holidays.country_holidays(country, subdiv=part or None, years=year))
