"""Frequencies speak pandas: names, grids and steps are checked against pandas itself."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.frequency import Frequency
from tsformer.errors import ConfigError, DataError

OLD_AND_NEW = {
    "H": "h", "T": "min", "15T": "15min", "S": "s", "L": "ms", "U": "us", "M": "ME",
    "Q": "QE", "Y": "YE", "A": "YE", "AS-APR": "YS-APR", "Q-DEC": "QE-DEC",
}  # fmt: skip
POLARS = {
    "1h": "h", "15m": "15min", "1d": "D", "1w": "W-SUN", "1mo": "MS", "1q": "QS-JAN",
    "1y": "YS-JAN", "2mo": "2MS", "1h30m": "90min", "500ms": "500ms", "1MS": "MS",
}  # fmt: skip
PANDAS = ["h", "15min", "30s", "D", "3D", "B", "W", "W-WED", "2W-MON", "MS", "ME", "QE", "YS", "YE"]


@pytest.mark.parametrize(("text", "name"), [*OLD_AND_NEW.items(), *POLARS.items()])
def test_other_spellings_have_the_pandas_name(text: str, name: str) -> None:
    assert str(Frequency.parse(text)) == str(Frequency.parse(name))


@pytest.mark.parametrize("text", PANDAS)
def test_names_are_those_of_pandas(text: str) -> None:
    assert str(Frequency.parse(text)) == pd.tseries.frequencies.to_offset(text).freqstr


@pytest.mark.parametrize(
    ("text", "same"),
    [("60min", "h"), ("3600s", "h"), ("120T", "2h"), ("QS-OCT", "QS-JAN"), ("QE-MAR", "QE-DEC")],
)
def test_one_grid_has_one_name(text: str, same: str) -> None:
    """Else a model trained on `h` would refuse data that say `60min`."""
    assert Frequency.parse(text) == Frequency.parse(same)


def test_a_day_of_the_calendar_is_not_24_hours() -> None:
    assert Frequency.parse("24h") != Frequency.parse("D")
    assert Frequency.parse("24h").is_elapsed
    assert Frequency.parse("D").is_calendar


@given(
    unit=st.sampled_from(["h", "min", "s", "D", "B", "W-TUE", "MS", "ME", "QE-NOV", "YS-JUL", ""]),
    count=st.integers(1, 8000),
)
def test_the_name_is_read_back(unit: str, count: int) -> None:
    frequency = Frequency.parse(f"{count}{unit}")
    assert Frequency.parse(str(frequency)) == frequency


@pytest.mark.parametrize(
    "text",
    ["", "x", "0h", "-1D", "h-MON", "W-XYZ", "1w-MON", "1e3", "99999999D", "D1", "hh", "1h1D",
     "1d12h", 0, -5, 10**9, "9999999h", "1x2y", "B-MON", "MS-JAN", "1h " * 50, True, 1.5, None],
)  # fmt: skip
def test_what_is_no_frequency_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="freq"):
        Frequency.parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seasons"),
    [("h", (24, 168)), ("15min", (96, 672)), ("30min", (48, 336)), ("D", (7, 365)), ("B", (5, 261)),
     ("W", (52,)), ("7D", (52,)), ("MS", (12,)), ("3MS", (4,)), ("QE", (4,)), ("YS", ()),
     ("12MS", ()), ("s", (3600, 86_400)), ("5h", ()), ("24h", (7,)), (1, ())],
)  # fmt: skip
def test_seasons_are_whole_cycles(text: str | int, seasons: tuple[int, ...]) -> None:
    frequency = Frequency.parse(text)
    assert frequency.seasons == seasons
    assert frequency.season == (seasons[0] if seasons else 1)


@pytest.mark.parametrize(
    "text",
    ["us", "15min", "h", "7h", "24h", "D", "10D", "B", "3B", "W", "W-THU", "2W-MON", "MS", "ME",
     "5ME", "2MS", "QS", "QS-FEB", "QE-NOV", "3QE", "YS", "YE", "YS-APR", "2YE-JUN"],
)  # fmt: skip
@pytest.mark.parametrize("start", ["2023-12-29 00:00", "2024-02-28 06:30", "1999-11-30 23:45"])
def test_grids_are_those_of_pandas(text: str, start: str) -> None:
    expected = pd.date_range(start, periods=30, freq=pd.tseries.frequencies.to_offset(text))
    frequency = Frequency.parse(text)
    first = expected[0].to_pydatetime()
    assert frequency.grid(first, 30).to_list() == expected.to_pydatetime().tolist()
    assert frequency.next(first, 29).to_list() == expected[1:].to_pydatetime().tolist()
    assert frequency.steps_between(first, expected[-1].to_pydatetime()) == 29


@given(
    day=st.dates(min_value=datetime(1750, 1, 1).date(), max_value=datetime(2150, 1, 1).date()),
    text=st.sampled_from(["D", "B", "W-FRI", "MS", "ME", "QS-FEB", "QE-OCT", "YE-MAY", "2ME"]),
    steps=st.integers(0, 40),
)
def test_walking_the_calendar_agrees_with_pandas(day: object, text: str, steps: int) -> None:
    offset = pd.tseries.frequencies.to_offset(text)
    start = offset.rollforward(pd.Timestamp(day)).to_pydatetime()
    expected = pd.date_range(start, periods=steps + 1, freq=offset)[-1].to_pydatetime()
    assert Frequency.parse(text).grid(start, steps + 1).to_list()[-1] == expected


def test_integer_steps() -> None:
    assert Frequency.parse(5).grid(-3, 3).to_list() == [-3, 2, 7]
    assert Frequency.parse("2").next(7, 2).to_list() == [9, 11]
    assert Frequency.parse(3).steps_between(0, 9) == 3


@pytest.mark.parametrize(
    ("text", "start"), [("MS", "2026-01-15"), ("W-SUN", "2026-01-01"), ("B", "2026-01-03")]
)
def test_a_start_off_the_grid_is_refused(text: str, start: str) -> None:
    with pytest.raises(DataError, match="grid") as caught:
        Frequency.parse(text).grid(start, 3)
    assert caught.value.faults[0].code == "off_grid"


@pytest.mark.parametrize(
    ("start", "code"),
    [("2026-03-29T02:30", "nonexistent_time"), ("2026-10-25T02:30", "ambiguous_time"),
     ("2026-13-01", "timestamp_invalid"), ("9999-01-01", "timestamp_out_of_range"),
     (7, "timestamp_invalid")],
)  # fmt: skip
def test_a_start_that_is_no_instant_is_refused(start: object, code: str) -> None:
    with pytest.raises(DataError) as caught:
        Frequency.parse("h").grid(start, 3, "Europe/Berlin")  # type: ignore[arg-type]
    assert caught.value.faults[0].code == code


@pytest.mark.parametrize("text", ["us", "h", "366D", "YE", "1000000ME", "1000000D", "8000h", 10**6])
def test_a_grid_never_leaves_the_range(text: str | int) -> None:
    """A horizon beyond 2200 would otherwise overflow into the past, or end the process."""
    frequency = Frequency.parse(text)
    if frequency.is_integer:
        last: datetime | int = 2**53 - 1
    else:
        last = datetime(2200, 12, 31, 23, 59, 59, 999999)
    with pytest.raises(DataError) as caught:
        frequency.next(last, 4096)
    assert caught.value.faults[0].code == "timestamp_out_of_range"


def test_steps_between_stamps_off_the_grid_are_refused() -> None:
    with pytest.raises(DataError, match="whole number"):
        Frequency.parse("h").steps_between(datetime(2026, 1, 1), datetime(2026, 1, 1, 1, 30))


def test_a_grid_starts_where_the_time_zone_says() -> None:
    grid = Frequency.parse("D").grid("2026-03-28", 3, "Europe/Berlin")
    assert grid.dtype == pl.Datetime("us", "Europe/Berlin")
    assert [stamp.utcoffset().seconds // 3600 for stamp in grid] == [1, 1, 2]


def test_the_second_pass_of_a_repeated_hour_is_told_from_the_first() -> None:
    first = datetime(2026, 10, 25, 2, tzinfo=ZoneInfo("Europe/Berlin"))
    hourly = Frequency.parse("h")
    assert [s.hour for s in hourly.next(first, 3)] == [2, 3, 4]
    assert [s.hour for s in hourly.next(first.replace(fold=1), 3)] == [3, 4, 5]
