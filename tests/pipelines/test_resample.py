"""Rows gathered into steps: what pandas makes of them, and every fault where it was sent."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.findings import Report
from pipelines.frequency import MONTHS, WEEKDAYS, Frequency
from pipelines.panel import Panel
from pipelines.resample import ENDS, Agg, Resample, read_resampled
from pipelines.schema import Schema
from tsformer.errors import DataError

SCHEMA = Schema(id="id", time="at", targets=("y",))
ANCHORED = (
    *("B", "D", "MS", "ME"),
    *(f"W-{day}" for day in WEEKDAYS),
    *(f"{unit}-{month}" for unit in ("QS", "QE", "YS", "YE") for month in MONTHS),
)


def events(rows: int = 400, *, seed: int = 0) -> pl.DataFrame:
    """Stamps at random seconds of 100 days, in any order, one value in ten missing."""
    random = np.random.default_rng(seed)
    seconds = random.choice(100 * 86_400, size=rows, replace=False)
    stamps = [datetime(2026, 1, 3) + timedelta(seconds=int(s)) for s in seconds]
    y = np.where(random.random(rows) < 0.1, np.nan, random.normal(size=rows))
    table = {"id": random.choice(["b", "a"], rows), "at": stamps, "y": y}
    return pl.DataFrame(table).with_columns(pl.col("y").fill_nan(None))


def read(
    frame: pl.DataFrame, freq: str | int, agg: Agg = "mean", **options: str
) -> tuple[Panel, Report]:
    resample = Resample(Frequency.parse(freq), agg)
    return read_resampled(frame, schema=SCHEMA, resample=resample, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("agg", ["mean", "sum", "first", "last", "min", "max"])
@pytest.mark.parametrize("freq", ["12h", "D", "2D", "W-SUN", "W-WED", "MS", "ME", "QS-JAN", "B"])
def test_steps_are_those_of_pandas(freq: str, agg: Agg) -> None:
    """A user who did it in pandas before must get the same grid and the same numbers."""
    frame = events()
    panel, report = read(frame, freq, agg, fill="mask")
    assert panel.ids == tuple(dict.fromkeys(frame["id"]))
    for place, name in enumerate(panel.ids):
        own = frame.filter(pl.col("id") == name).sort("at").to_pandas().set_index("at")["y"]
        origin = "epoch" if freq == "2D" else "start_day"
        expected = getattr(own.resample(freq, origin=origin), agg)()
        if agg == "sum":
            expected[own.resample(freq, origin=origin).count() == 0] = np.nan
        rows = slice(panel.offsets[place], panel.offsets[place + 1])
        assert panel.table["time"][rows].to_list() == [t.to_pydatetime() for t in expected.index]
        np.testing.assert_allclose(panel.target[rows], expected.to_numpy(), rtol=1e-12)
    warned = [w.code for entry in report.series for w in entry.warnings]
    assert warned.count("resampled") == 2


def daily(start: date, length: int) -> pl.DataFrame:
    """One a day."""
    first = datetime(start.year, start.month, start.day)
    stamps = [first + timedelta(days=n) for n in range(length)]
    return pl.DataFrame({"id": ["a"] * length, "at": stamps, "y": np.ones(length)})


STARTS = st.dates(date(1950, 1, 1), date(2090, 1, 1))


@settings(max_examples=200, deadline=None)
@given(freq=st.sampled_from(ANCHORED), start=STARTS, length=st.integers(3, 900))
def test_each_day_falls_into_the_period_of_pandas(freq: str, start: date, length: int) -> None:
    """The days of a quarter belong to its own last day, not to that of the quarter before."""
    frame = daily(start, length)
    panel, _ = read(frame, freq, "sum", fill="mask")
    expected = frame.to_pandas().set_index("at")["y"].resample(freq).sum()
    assert panel.table["time"].to_list() == [t.to_pydatetime() for t in expected.index]
    assert panel.target.tolist() == expected.tolist()


@settings(max_examples=100, deadline=None)
@given(
    freq=st.sampled_from(ANCHORED), count=st.integers(2, 5), start=STARTS, cut=st.integers(1, 400)
)
def test_multiples_gather_whole_steps_from_one_origin(
    freq: str, count: int, start: date, cut: int
) -> None:
    """Series that begin on different days share a grid; each step is `count` of the single ones."""
    frame, step = daily(start, 2_000), Frequency.parse(freq)
    panel, _ = read(frame, f"{count}{freq}", "sum")
    later, _ = read(frame[cut:], f"{count}{freq}", "sum")
    labels, gathered = (
        panel.table["time"],
        dict(zip(panel.table["time"], panel.target, strict=True)),
    )
    assert set(later.table["time"]) <= set(labels)
    single, _ = read(frame, freq, "sum")
    days = dict(zip(single.table["time"], single.target, strict=True))
    ahead = range(1 - count, 1) if step.unit in ENDS else range(count)
    for label in labels:
        own = step.shift(pl.Series([label] * count), np.array(ahead))
        assert gathered[label] == sum(days.get(day, 0) for day in own)


def test_the_order_of_rows_changes_no_digit() -> None:
    """Law 2, for a sum of numbers of any size at the same stamps."""
    frame = pl.DataFrame(
        {"id": ["a"] * 60, "at": [datetime(2026, 1, 1 + i // 20) for i in range(60)],
         "y": np.random.default_rng(1).normal(size=60) * 10.0 ** np.arange(-30, 30)}
    )  # fmt: skip
    first, _ = read(frame, "D", "sum")
    other, _ = read(frame.sample(fraction=1.0, shuffle=True, seed=2), "D", "sum")
    assert first.target.tolist() == other.target.tolist()


def test_days_across_a_clock_change_have_all_of_their_hours() -> None:
    """A day of 23 hours is one step of the local calendar."""
    hours = pl.datetime_range(
        datetime(2026, 3, 27), datetime(2026, 3, 31), "1h", time_zone="Europe/Berlin",
        closed="left", eager=True,
    )  # fmt: skip
    frame = pl.DataFrame({"id": ["a"] * len(hours), "at": hours, "y": np.ones(len(hours))})
    panel, _ = read(frame, "D", "sum")
    assert panel.target.tolist() == [24.0, 24.0, 23.0, 24.0]


def test_integer_steps_are_gathered() -> None:
    frame = pl.DataFrame({"id": ["a"] * 6, "at": [0, 1, 4, 5, 8, 9], "y": [1.0] * 6})
    panel, _ = read(frame, 4, "sum")
    assert panel.table["time"].to_list() == [0, 4, 8]
    assert panel.target.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("place", "cell", "code"),
    [("at", None, "timestamp_invalid"), ("y", float("inf"), "non_finite")],
)
def test_a_bad_row_is_named_and_costs_its_series_alone(place: str, cell: object, code: str) -> None:
    frame = events()
    row = int((frame["id"] == "a").arg_max() or 0)
    frame[row, place] = cell
    with pytest.raises(DataError) as caught:
        read(frame, "D", fill="mask")
    assert [(f.code, f.series, f.row) for f in caught.value.faults] == [(code, "a", row)]
    panel, report = read(frame, "D", fill="mask", on_invalid="skip")
    assert panel.ids == ("b",)
    assert {entry.id: entry.status for entry in report.series} == {"a": "invalid", "b": "ok"}


def test_a_gap_between_steps_points_to_the_row_after_it() -> None:
    """Aggregation is no filling: a day without any row is still missing."""
    days = [datetime(2026, 1, 3, 1), datetime(2026, 1, 1, 1), datetime(2026, 1, 3)]
    frame = pl.DataFrame({"id": ["a"] * 3, "at": days, "y": [1.0] * 3})
    with pytest.raises(DataError) as caught:
        read(frame, "D")
    assert [(f.code, f.row) for f in caught.value.faults] == [("gap", 0)]


def test_nothing_is_left_of_bad_series_alone() -> None:
    frame = pl.DataFrame({"id": ["a"], "at": ["soon"], "y": [1.0]})
    panel, report = read(frame, "D", on_invalid="skip")
    assert (panel.ids, [e.status for e in report.series]) == ((), ["invalid"])
