"""The series of the Nixtla client as tables, and the places of faults in what it sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import times
from pipelines.covariates import Inputs
from pipelines.frequency import Frequency
from serving import tables
from serving.body import pointer_to
from serving.compat.loose import parts_of
from serving.compat.nixtla.schemas import Asked, History
from serving.problems import Item, Problem, of_faults
from serving.schemas.tables import Cells
from tsformer.errors import DataError

Rows = NDArray[np.int64]
ANCHOR = 10_959  # days from 1970 to 3 January 2000, a Monday: made-up stamps end about there
YEAR = 366


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of a request, and `place`: where a pointer into them leads in what was sent."""

    data: dict[str, Cells]
    future: dict[str, Cells]
    freq: str
    place: Callable[[str], str]


def tables_of(asked: Asked, inputs: Inputs, *, own: str | None, ahead: int) -> Tables:
    """The tables in `asked` for a model that reads `inputs` at the frequency `own`.

    Raises `invalid-request` where the covariates are not as many as the model has. `ahead` steps
    of the known ones come in `X_future`.
    """
    sent = asked.series
    sizes = _sizes(sent)
    rows = _rows_of(asked, inputs)
    place = _places(sent, rows)
    frequency = _frequency(asked, own)
    ids = pl.Series([str(place) for place in range(len(sizes))])
    stamps = _stamps(sent, sizes, frequency)
    data: dict[str, Cells] = {
        "unique_id": ids.gather(np.repeat(np.arange(len(sizes)), sizes)),
        "ds": stamps,
        "y": pl.Series(sent.y, dtype=pl.Float64),
    }
    data |= {name: (sent.X or [])[row] for name, row in rows.items()}
    future: dict[str, Cells] = {}
    known = getattr(sent, "X_future", None)
    if known:
        last = stamps.gather(np.cumsum(sizes) - 1)
        series = np.repeat(np.arange(len(sizes)), ahead)
        steps = np.tile(np.arange(1, ahead + 1), len(sizes))
        future = {"unique_id": ids.gather(series), "ds": _shifted(frequency, last, series, steps)}
        future |= {column.name: known[rows[column.name]] for column in inputs.known}
    return Tables(data, future, str(frequency), place)


def _sizes(sent: History) -> Rows:
    total = sum(sent.sizes)
    if total != len(sent.y):
        message = f"The sizes add up to {total}; y has {len(sent.y)} values."
        raise Problem("invalid-request", message, [Item(message, "/series/sizes")])
    return np.array(sent.sizes, dtype=np.int64)


# --- covariates -----------------------------------------------------------------------------------


def _rows_of(asked: Asked, inputs: Inputs) -> dict[str, int]:
    """The row of `X` of each covariate of the model: neither side knows the other's names."""
    rows = range(len(asked.series.X or ()))
    past = asked.hist_rows
    if past is None:
        past = [*rows][len(inputs.known) :]
    if len({*past}) < len(past) or not {*past} <= {*rows}:
        message = "hist_exog must list rows of series.X, each once."
        raise Problem("invalid-request", message, [Item(message, "/hist_exog")])
    known = [row for row in rows if row not in {*past}]
    if (len(known), len(past)) != (len(inputs.known), len(inputs.past)):
        reads = "; ".join(
            f"{use} {', '.join(names) or 'none'}"
            for use, names in (("ahead", inputs.names["known"]), ("past", inputs.names["past"]))
        )
        came = f"{len(known)} known ahead and {len(past)} in the past alone"
        message = f"These are not the covariates of the model ({reads}): there came {came}."
        where = "/series/X" if asked.series.X is not None else "/series"
        raise Problem("invalid-request", message, [Item(message, where)])
    columns = (*inputs.known, *inputs.past)
    return {column.name: row for column, row in zip(columns, (*known, *past), strict=True)}


def _places(sent: History, rows: dict[str, int]) -> Callable[[str], str]:
    def place(pointer: str) -> str:
        table, *rest = parts_of(pointer) or [""]
        if table in ("options", "static", "columns", "detect"):  # the client has none of them
            return ""
        if table == "quantiles":
            return "/level"
        if table not in ("data", "future"):
            return pointer
        ahead = getattr(sent, "X_future", None) is not None and table == "future"
        if rest and rest[0] in rows:
            name = "X_future" if ahead else "X"
            return pointer_to("series", name, rows[rest[0]], *map(int, rest[1:]))
        if rest and rest[0] == "y":
            return pointer_to("series", "y", *map(int, rest[1:]))
        return "/series"

    return place


# --- time -----------------------------------------------------------------------------------------


def _frequency(asked: Asked, own: str | None) -> Frequency:
    """The frequency that is meant: on whose days the series start, or that of the model."""
    tables.check_freq(asked.freq)
    candidates = Frequency.candidates(asked.freq)
    if candidates[0].is_integer:
        message = "Give a frequency of time; the client sends MS for integer stamps."
        raise Problem("invalid-request", message, [Item(message, "/freq")])
    starts = asked.series.start_datetime
    if len(candidates) == 1:
        return candidates[0]
    if starts is None:
        return next((each for each in candidates if str(each) == own), candidates[0])
    days = times.wall(_starts(starts)) // times.DAY
    return max(candidates, key=lambda each: each.lattice.contains(days).sum())


def _stamps(sent: History, sizes: Rows, frequency: Frequency) -> pl.Series:
    """The stamps of all rows; without starts a grid that merely counts the steps."""
    series = np.repeat(np.arange(len(sizes)), sizes)
    ends = np.cumsum(sizes)
    if sent.start_datetime is None:
        steps = np.arange(len(series)) - (ends - 1)[series]
        return _shifted(frequency, _anchor(frequency), np.zeros_like(series), steps)
    if len(sent.start_datetime) != len(sizes):
        message = f"There are {len(sent.start_datetime)} starts of {len(sizes)} series."
        raise Problem("invalid-request", message, [Item(message, "/series/start_datetime")])
    steps = np.arange(len(series)) - (ends - sizes)[series]
    return _shifted(frequency, _starts(sent.start_datetime), series, steps)


def _starts(texts: Sequence[str]) -> pl.Series:
    """The starts as the wall clock shows them: an offset is constant and changes no number."""
    starts = []
    for row, text in enumerate(texts):
        try:
            starts.append(datetime.fromisoformat(text).replace(tzinfo=None))
        except ValueError:
            message = "Not a stamp. Use ISO 8601, such as 2026-03-29T14:00:00."
            place = pointer_to("series", "start_datetime", row)
            raise of_faults(message, [Item(message, place, "timestamp_invalid")]) from None
    return pl.Series(starts, dtype=pl.Datetime("us"))


def _anchor(frequency: Frequency) -> pl.Series:
    """A stamp of the grid in the year 2000."""
    days = np.arange(ANCHOR, ANCHOR + YEAR)
    if frequency.is_calendar:
        days = days[frequency.lattice.contains(days)]
    return times.naive(days[:1] * times.DAY)


def _shifted(frequency: Frequency, stamps: pl.Series, series: Rows, steps: Rows) -> pl.Series:
    try:
        return frequency.shift(stamps.gather(series), steps)
    except DataError as error:
        message = "The stamps leave the range from 1700 to 2200."
        item = Item(message, "/series", "timestamp_out_of_range")
        raise of_faults(message, [item]) from error
