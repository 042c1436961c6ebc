"""The shipped sample: a wrong hour or a lost flight here would be in every example and demo."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pytest

from pipelines.data.make_flights import by_hour, hours
from pipelines.sources import SAMPLE_FILE, load

SERIES, HOURS = 23, 8760


@pytest.fixture(scope="module")
def flights() -> pl.DataFrame:
    return load("flights", environment={})[0]


def test_it_is_small_enough_to_live_in_the_repository() -> None:
    assert SAMPLE_FILE.stat().st_size < 1_000_000


def test_columns_and_types(flights: pl.DataFrame) -> None:
    assert flights.schema == {
        "series": pl.String,
        "time": pl.Datetime("us", "America/New_York"),
        "departures": pl.Int16,
        "late": pl.Int16,
        "mean_delay": pl.Float32,
        "scheduled": pl.Int16,
        "temp": pl.Float32,
        "wind_speed": pl.Float32,
        "precip": pl.Float32,
        "visib": pl.Float32,
        "airport": pl.String,
        "carrier": pl.String,
    }


def test_every_series_has_every_hour_of_the_local_year(flights: pl.DataFrame) -> None:
    assert flights.height == SERIES * HOURS
    spans = flights.group_by("series").agg(
        pl.len().alias("rows"),
        pl.col("time").diff().drop_nulls().unique().alias("steps"),
        pl.col("time").first().dt.replace_time_zone(None).alias("first"),
        pl.col("time").last().dt.replace_time_zone(None).alias("last"),
    )
    assert spans.height == SERIES
    for row in spans.iter_rows(named=True):
        assert row["rows"] == HOURS
        assert row["steps"] == [timedelta(hours=1)]
        assert (row["first"], row["last"]) == (datetime(2013, 1, 1), datetime(2013, 12, 31, 23))


@pytest.mark.parametrize(
    ("day", "clock"),
    [
        (datetime(2013, 3, 10), [0, 1, *range(3, 24)]),
        (datetime(2013, 11, 3), [0, 1, 1, *range(2, 24)]),
    ],
    ids=["spring forward", "fall back"],
)
def test_clock_changes_are_in_it(flights: pl.DataFrame, day: datetime, clock: list[int]) -> None:
    one = flights.filter(pl.col("series") == "JFK-B6", pl.col("time").dt.date() == day.date())
    assert one["time"].dt.hour().to_list() == clock


def test_totals_are_those_of_the_source(flights: pl.DataFrame) -> None:
    """Counted in the package's flights.csv: rows of the 23 pairs, and those that departed."""
    totals = flights.select(pl.col("scheduled", "departures", "late").cast(pl.Int64).sum())
    assert totals.row(0) == (322_348, 314_680, 70_205)
    assert flights["departures"].sum() > 0.93 * 328_521  # all departures of the package
    united = flights.filter(pl.col("series") == "EWR-UA")
    assert (united["scheduled"].sum(), united["departures"].sum()) == (46_087, 45_652)


def test_every_series_departs_on_every_day(flights: pl.DataFrame) -> None:
    daily = flights.group_by("series", pl.col("time").dt.date()).agg(pl.col("departures").sum())
    assert daily["departures"].min() > 0
    assert flights.group_by("series").agg(pl.col("departures").sum())["departures"].min() > 2000


def test_counts_agree_with_each_other(flights: pl.DataFrame) -> None:
    counts = flights.select(
        late=pl.col("late") <= pl.col("departures"),
        departures=pl.col("departures") <= pl.col("scheduled"),
        positive=pl.col("late") >= 0,
        delay=pl.col("mean_delay").is_null() == (pl.col("departures") == 0),
    )
    assert counts.select(pl.all().all()).row(0) == (True, True, True, True)


def test_hours_are_local(flights: pl.DataFrame) -> None:
    """Read as UTC, or shifted by an hour after a clock change, flights would leave at night."""
    night = flights.filter(pl.col("time").dt.hour() < 5)
    assert night["departures"].sum() == 0
    by_month = (
        flights.filter(pl.col("departures") > 0)
        .group_by(pl.col("time").dt.month())
        .agg(pl.col("time").dt.hour().min().alias("first"))
    )
    assert by_month["first"].unique().to_list() == [5]
    warmest = flights.group_by(pl.col("time").dt.hour().alias("hour")).agg(pl.col("temp").mean())
    assert warmest.sort("temp")["hour"][-1] in (13, 14, 15)


def test_weather_has_real_gaps_and_possible_values(flights: pl.DataFrame) -> None:
    weather = flights.select("temp", "wind_speed", "precip", "visib")
    assert min(weather.null_count().row(0)) > 0
    assert weather["wind_speed"].max() < 100
    assert weather.select(pl.col("precip", "visib").min()).row(0) == (0, 0)


def test_names_are_airport_and_carrier(flights: pl.DataFrame) -> None:
    assert (flights["airport"] + "-" + flights["carrier"] == flights["series"]).all()
    assert set(flights["airport"]) == {"EWR", "JFK", "LGA"}


def test_counts_of_a_worked_example() -> None:
    """Five flights scheduled at six: one cancelled, one early, 14 minutes is not late, 15 is."""
    at_six = {"origin": "JFK", "carrier": "B6", "time": datetime(2013, 5, 1, 6)}
    flights = pl.DataFrame([at_six | {"dep_delay": d} for d in (None, -3, 14, 15, 120)])
    row = by_hour(flights).row(0, named=True)
    assert row == at_six | {"departures": 4, "late": 2, "mean_delay": 36.5, "scheduled": 5}


def test_the_grid_is_elapsed_time() -> None:
    utc = hours()["time"].dt.convert_time_zone("UTC")
    assert len(utc) == HOURS
    assert utc.diff().drop_nulls().unique().to_list() == [timedelta(hours=1)]
