"""The step of a panel is found whatever the step, and one bad series or row does not hide it."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pytest

from pipelines.frequency import Frequency
from pipelines.panel import read_panel
from pipelines.schema import Schema

SCHEMA = Schema(id="id", time="t", targets=("y",))


def series(stamps: pl.Series, name: str = "a") -> pl.DataFrame:
    rows = pl.Series("y", range(len(stamps)), dtype=pl.Float64)
    return pl.DataFrame({"id": [name] * len(stamps), "t": stamps, "y": rows})


def inferred(*frames: pl.DataFrame, tz: str | None = None) -> str:
    table = pl.concat(frames)
    return str(read_panel(table, schema=SCHEMA, tz=tz, on_invalid="skip")[0].frequency)


@pytest.mark.parametrize(
    "name",
    ["us", "250ms", "s", "10min", "15min", "h", "7h", "36h", "D", "3D", "B", "W-WED", "2W-FRI",
     "MS", "ME", "2MS", "QS-FEB", "QE-DEC", "YS-APR", "YE-DEC", "2YS-JAN"],
)  # fmt: skip
@pytest.mark.parametrize("tz", [None, "Europe/Berlin"])
def test_the_step_of_a_grid_is_found(name: str, tz: str | None) -> None:
    frequency = Frequency.parse(name)
    near = datetime(2024, 1, 31)
    start = near
    while frequency.is_calendar and not _on_grid(frequency, start):
        start += timedelta(days=1)
    assert inferred(series(frequency.grid(start, 14, tz))) == name


def _on_grid(frequency: Frequency, stamp: datetime) -> bool:
    _, exact = frequency.steps_along(pl.Series([stamp]), pl.Series([0, 1]).to_numpy())
    return bool(exact[0])


def test_gaps_do_not_hide_the_step() -> None:
    hourly = Frequency.parse("h").grid("2026-01-01", 40)
    assert inferred(series(hourly.gather([*range(10), 13, 14, 15, 20, 22, 23, 39]))) == "h"


def test_one_stray_stamp_does_not_hide_the_months() -> None:
    months = Frequency.parse("MS").grid("2020-01-01", 24).to_list()
    months[7] += timedelta(days=3)
    table = series(pl.Series(months))
    _, report = read_panel(table, schema=SCHEMA, on_invalid="skip")
    assert ("off_grid", 7) in {(fault.code, fault.row) for fault in report.all_faults}


def test_most_series_decide() -> None:
    hourly = [series(Frequency.parse("h").grid("2026-01-01", 5), f"h{i}") for i in range(3)]
    daily = series(Frequency.parse("D").grid("2026-01-01", 50), "d")
    assert inferred(daily, *hourly) == "h"


def test_a_series_of_one_or_two_rows_follows_the_others() -> None:
    hourly = series(Frequency.parse("h").grid("2026-01-01", 9), "many")
    one = series(hourly["t"][:1], "one")
    two = series(hourly["t"].gather([0, 5]), "two")
    table = pl.concat([one, two, hourly])
    panel, _ = read_panel(table, schema=SCHEMA, fill="mask")
    assert str(panel.frequency) == "h"
    assert panel.offsets.tolist() == [0, 1, 7, 16]


def test_weeks_on_different_weekdays_are_steps_of_seven_days() -> None:
    frames = [
        series(Frequency.parse("7D").grid(day, 5), day) for day in ("2026-01-05", "2026-01-07")
    ]
    assert inferred(*frames) == "7D"


def test_five_days_without_a_weekend_are_days() -> None:
    """Business days are known only once a weekend was passed over."""
    assert inferred(series(Frequency.parse("D").grid("2026-01-05", 5))) == "D"
    assert inferred(series(Frequency.parse("B").grid("2026-01-05", 6))) == "B"
