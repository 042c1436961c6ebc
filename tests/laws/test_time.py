"""Time: grids are right at every clock change from 2024 to 2030, in four telling zones.

Berlin and New York change by an hour, Lord Howe by half an hour, Kolkata never. The oracles are
the standard library's zoneinfo and pandas, which share no code with polars.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pytest

from pipelines.frequency import Frequency
from pipelines.panel import read_panel
from pipelines.schema import Schema
from pipelines.times import text

ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
SCHEMA = Schema(time="ds", targets=("y",))
CLOCKS = ((0, 0), (1, 45), (2, 0), (2, 30), (12, 0))


@cache
def changes(zone: str) -> tuple[datetime, ...]:
    """The UTC hours in which the offset of `zone` changes, or one summer day where it never does."""
    first = datetime(2024, 1, 1, tzinfo=UTC)
    hours = [first + timedelta(minutes=30 * i) for i in range(2 * 24 * 365 * 7 + 2 * 48)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    found = [hours[i] for i in range(1, len(hours)) if offsets[i] != offsets[i - 1]]
    return tuple(found) or (datetime(2026, 6, 1, tzinfo=UTC),)


def first_valid(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first wall time from `wall` on that the clock shows, minute by minute, as UTC."""
    while True:
        utc = wall.replace(tzinfo=zone).astimezone(UTC)
        if utc.astimezone(zone).replace(tzinfo=None) == wall:
            return utc
        wall += timedelta(minutes=1)


def utc(stamps: pl.Series) -> list[datetime]:
    return stamps.dt.convert_time_zone("UTC").to_list()


def test_the_zones_change_as_often_as_they_should() -> None:
    assert [len(changes(zone)) for zone in ZONES] == [14, 14, 1, 14]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("step", ["h", "30min", "15min", "6h"])
def test_shorter_steps_walk_elapsed_time(zone: str, step: str) -> None:
    width = pd.Timedelta(pd.tseries.frequencies.to_offset(step)).to_pytimedelta()
    for change in changes(zone):
        start = (change - timedelta(hours=36)).astimezone(ZoneInfo(zone))
        grid = Frequency.parse(step).grid(start, 24 * 12)
        assert utc(grid) == [start.astimezone(UTC) + width * i for i in range(24 * 12)]
        expected = pd.date_range(start, periods=24 * 12, freq=step)
        assert text(grid).to_list() == [stamp.isoformat() for stamp in expected]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("clock", CLOCKS)
def test_days_walk_the_local_calendar(zone: str, clock: tuple[int, int]) -> None:
    """Midnight stays midnight over days of 23 and 25 hours; a skipped time moves forward."""
    for change in changes(zone):
        day = (change.astimezone(ZoneInfo(zone)) - timedelta(days=3)).replace(tzinfo=None)
        start = day.replace(hour=clock[0], minute=clock[1], second=0)
        walls = [start + timedelta(days=i) for i in range(7)]
        expected = [first_valid(wall, ZoneInfo(zone)) for wall in walls]
        daily = Frequency.parse("D")
        assert utc(daily.grid(start, 7, zone)) == expected
        assert utc(daily.next(start.replace(tzinfo=ZoneInfo(zone)), 6)) == expected[1:]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("alias", ["D", "B", "W-SUN", "MS", "ME", "QS", "YE"])
def test_calendar_steps_at_midnight_are_those_of_pandas(zone: str, alias: str) -> None:
    for change in changes(zone)[:4]:
        start = pd.Timestamp((change - timedelta(days=5)).date())
        expected = pd.date_range(start, periods=8, freq=alias, tz=zone)
        first = expected[0].to_pydatetime().replace(tzinfo=None)
        grid = Frequency.parse(alias).grid(first, 8, zone)
        assert text(grid).to_list() == [stamp.isoformat() for stamp in expected]


SENT = [
    (zone, step, form)
    for zone in ZONES
    for step in ("h", "30min", "D")
    for form in ("offsets", "wall clock")
    if (zone, step, form) != ("Australia/Lord_Howe", "h", "wall clock")  # ambiguous: see below
]


@pytest.mark.parametrize(("zone", "step", "form"), SENT)
def test_a_grid_that_is_sent_is_read_back(zone: str, step: str, form: str) -> None:
    """Text with offsets, and text of the wall where a repeated hour is told apart by order."""
    for change in changes(zone):
        start = (change - timedelta(hours=60)).astimezone(ZoneInfo(zone))
        start = start.replace(hour=0, minute=0, second=0, microsecond=0)
        grid = Frequency.parse(step).grid(start, 120)
        stamps = text(grid) if form == "offsets" else text(grid.dt.replace_time_zone(None))
        table = pl.DataFrame({"ds": stamps, "y": range(120)})
        panel, report = read_panel(table, schema=SCHEMA, tz=zone)
        assert str(panel.frequency) == step
        assert panel.table["time"].to_list() == grid.to_list()
        assert panel.table["y"].to_list() == [*range(120)]
        assert {warning.code for warning in report.all_warnings} == {"frequency_inferred"}
        following = Frequency.parse(step).grid(start, 150)[120:]
        assert panel.following(30).to_list() == following.to_list()
        assert panel.frequency.next(panel.ends[0], 30).to_list() == following.to_list()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_a_daily_series_that_ends_in_a_clock_gap_goes_on_at_its_own_time(zone: str) -> None:
    """02:30 is skipped on the last day, so that row says 03:00; the next day is 02:30 again."""
    spring = changes(zone)[0].astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    start = (spring - timedelta(days=4)).replace(hour=2, minute=30)
    grid = Frequency.parse("D").grid(start, 8, zone)
    table = pl.DataFrame({"ds": grid[:5], "y": range(5)})
    panel, _ = read_panel(table, schema=SCHEMA)
    assert panel.ends[0].hour == 3  # type: ignore[union-attr]
    assert panel.following(3).to_list() == grid[5:].to_list()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_wall_clock_stamps_that_are_no_instant_are_named(zone: str) -> None:
    spring, autumn = sorted(
        changes(zone)[:2],
        key=lambda change: (change - timedelta(hours=1)).astimezone(ZoneInfo(zone)).utcoffset(),
    )
    skipped = (spring - timedelta(minutes=15)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    repeated = (autumn + timedelta(minutes=15)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    stamps = [skipped + timedelta(minutes=30), skipped - timedelta(days=1), repeated]
    table = pl.DataFrame({"ds": stamps, "y": range(3)})
    _, report = read_panel(table, schema=SCHEMA, tz=zone, freq="15min", on_invalid="skip")
    rows = {fault.code: fault.row for fault in report.all_faults}
    assert rows["nonexistent_time"] == 0
    assert rows["ambiguous_time"] == 2


def test_half_an_hour_that_repeats_is_ambiguous_on_an_hourly_grid() -> None:
    """On Lord Howe 01:30 occurs twice; an hourly grid has one of them, and order cannot say which."""
    autumn = datetime(2026, 4, 4, 10, tzinfo=UTC).astimezone(ZoneInfo("Australia/Lord_Howe"))
    walls = Frequency.parse("h").grid(autumn, 12).dt.replace_time_zone(None)
    table = pl.DataFrame({"ds": walls, "y": range(12)})
    _, report = read_panel(table, schema=SCHEMA, tz="Australia/Lord_Howe", on_invalid="skip")
    assert report.all_faults[0].code == "ambiguous_time"
