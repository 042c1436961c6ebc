"""Reading a column of stamps: ISO text, dates, date-times, instants or integers, strictly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import times as clock
from pipelines.times import SECOND
from tsformer.errors import DataError, Fault

Rows = NDArray[np.int64]

# 2026-03-29, 2026-03-29T02:30, 2026-03-29 02:30:00.123456+01:00; a leap second is not accepted.
WALL = (
    r"^(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::[0-5]\d(?:\.\d{1,9})?)?)?)"
    r"(Z|[+-](?:0\d|1[0-4]):?[0-5]\d)?$"
)
FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")

MANY = 4_096  # stamps, from which on it pays to look whether they repeat
INVALID = "Not a stamp. Use ISO 8601, such as 2026-03-29T14:00:00 or 2026-03-29."
OUT_OF_RANGE = "Stamps must lie between 1700-01-01 and 2200-12-31, integer steps within 2^53."
AMBIGUOUS = (
    "This wall clock time occurs twice in the time zone, and not both rows are there. "
    "Give the stamp with its offset."
)
NONEXISTENT = "The clock skips this time in the time zone. Give the stamp with its offset."
MIXED = "Stamps with several offsets, or with and without one. Name the time zone in tz."


@dataclass(frozen=True, slots=True)
class Offenders:
    """Rows whose stamp cannot be used, the code of the fault and the remedy."""

    code: str
    rows: Rows
    message: str


@dataclass(frozen=True, slots=True)
class Stamps:
    """A column of stamps as read: `values` are null where a row is among `offenders`.

    `values` are Int64, naive Datetime, or Datetime in an IANA zone. `tz` is that zone, or a fixed
    offset (then `values` are naive, as the wall there shows them), or None.
    """

    values: pl.Series
    tz: str | None
    offenders: tuple[Offenders, ...] = ()


def read_stamps(column: pl.Series, *, tz: str | None = None, series: Rows | None = None) -> Stamps:
    """The stamps of `column`; naive ones are wall clock time in `tz`.

    `series` numbers the series of each row: a repeated hour is resolved by order within a series.
    Raises DataError where the column as a whole cannot be read, ConfigError for an unknown `tz`.
    """
    tz = None if tz is None else clock.check_zone(tz)
    if column.dtype in (pl.Categorical, pl.Enum, pl.Null):
        column = column.cast(pl.String)
    if column.dtype.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        inside = whole.is_between(-clock.LAST_INDEX, clock.LAST_INDEX).fill_null(False)
        return _named(whole, column.is_not_null() & ~inside, None, ())
    if column.dtype == pl.String:
        return _text(column, tz, series)
    if column.dtype not in (pl.Date, pl.Datetime):
        raise _whole_column("timestamp_invalid", f"Not a time column. {INVALID}", column)
    physical, outside = _clipped(column)
    zone = clock.zone_of(column)
    if zone is not None:
        return _named(_converted(physical, tz or zone), outside, tz or zone, ())
    values, offenders = _placed(physical, tz, series)
    return _named(values, outside, tz, offenders)


def _text(column: pl.Series, tz: str | None, series: Rows | None) -> Stamps:
    """ISO text: offsets are converted to `tz`; without it one common offset is kept."""
    walls, outside, offsets = _once(column)
    kinds = offsets.unique().drop_nulls().to_list()
    if not kinds:
        values, offenders = _placed(walls, tz, series)
        return _named(values, outside, tz, offenders)
    some_naive = bool((walls.is_not_null() & offsets.is_null()).any())
    common = {_offset(kind) for kind in kinds}
    if tz is None and (some_naive or len(common) > 1):
        raise _whole_column("mixed_offsets", MIXED, column)
    tz = tz or common.pop()
    seconds = offsets.replace_strict({k: clock.offset_seconds(_offset(k)) for k in kinds})
    values = _converted(walls - seconds * SECOND, tz)
    if not some_naive:
        return _named(values, outside, tz, ())
    naive, offenders = _placed(
        pl.select(pl.when(offsets.is_null()).then(walls)).to_series(), tz, series
    )
    merged = pl.select(pl.when(offsets.is_null()).then(naive).otherwise(values)).to_series()
    return _named(merged, outside, tz, offenders)


def _once(column: pl.Series) -> tuple[pl.Series, pl.Series, pl.Series]:
    """What `_parts` gives; where many series have the same stamps, each is read once."""
    if len(column) < MANY:
        return _parts(column)
    words = column.unique().drop_nulls()
    if len(words) * 4 > len(column):
        return _parts(column)
    places = column.cast(pl.Enum(words)).to_physical()
    walls, outside, offsets = _parts(words)
    return walls.gather(places), outside.gather(places), offsets.gather(places)


def _parts(column: pl.Series) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Microseconds on the wall, whether they are out of range, and the offsets, as text."""
    parts = pl.select(
        wall=column.str.extract(WALL, 1).str.replace(" ", "T", literal=True),
        offset=column.str.extract(WALL, 2),
    )
    formats = [pl.col("wall").str.to_datetime(f, time_unit="us", strict=False) for f in FORMATS]
    walls, outside = _clipped(parts.select(pl.coalesce(formats)).to_series())
    offsets = pl.select(pl.when(walls.is_not_null()).then(parts["offset"])).to_series()
    return walls, outside, offsets


def _offset(text: str) -> str:
    """`Z`, `+0530` and `+05:30` as `+05:30`; no offset from UTC as the zone UTC."""
    text = text if ":" in text or text == "Z" else f"{text[:3]}:{text[3:]}"
    return "UTC" if text in ("Z", "+00:00", "-00:00") else text


def _clipped(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Dates and date-times as Int64 microseconds, and which lie out of range.

    What is out of range is brought just outside it, so that no later step can overflow.
    """
    unit = {"ms": 1000, "us": 1}.get(getattr(column.dtype, "time_unit", ""), 1)
    if column.dtype == pl.Date:
        unit = clock.DAY
    if getattr(column.dtype, "time_unit", "") == "ns":
        column = column.dt.cast_time_unit("us")
    slack = 2 * clock.DAY
    low, high = (clock.FIRST - slack) // unit, (clock.LAST + slack) // unit
    physical = column.to_physical().cast(pl.Int64).clip(low, high) * unit
    return physical, ~physical.is_between(clock.FIRST, clock.LAST)


def _converted(utc: pl.Series, tz: str) -> pl.Series:
    """Instants at `utc` microseconds in the zone `tz`, or on the wall at a fixed offset."""
    if clock.is_offset(tz):
        return (utc + clock.offset_seconds(tz) * SECOND).cast(pl.Datetime("us"))
    return utc.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").dt.convert_time_zone(tz)


def _placed(
    walls: pl.Series, tz: str | None, series: Rows | None
) -> tuple[pl.Series, tuple[Offenders, ...]]:
    """Wall clock microseconds as stamps in `tz`, and the rows for which there is no such instant."""
    naive = walls.cast(pl.Datetime("us"))
    if tz is None or clock.is_offset(tz):
        return naive, ()
    placed = naive.dt.replace_time_zone(tz, ambiguous="null", non_existent="null")
    doubtful = np.flatnonzero((placed.is_null() & naive.is_not_null()).to_numpy())
    if not len(doubtful):
        return placed, ()
    wall = pl.col("wall").dt
    cases = pl.DataFrame(
        {
            "row": doubtful,
            "series": np.zeros(len(doubtful), np.int64) if series is None else series[doubtful],
            "wall": naive.gather(doubtful),
        }
    ).with_columns(
        wall.replace_time_zone(tz, ambiguous="earliest", non_existent="null").alias("first"),
        wall.replace_time_zone(tz, ambiguous="latest", non_existent="null").alias("second"),
        pl.int_range(pl.len()).over("series", "wall").alias("place"),
        pl.len().over("series", "wall").alias("rows"),
    )
    skipped = cases.filter(pl.col("first").is_null())
    repeated = cases.filter(pl.col("first").is_not_null())
    single = repeated.filter(pl.col("rows") == 1)
    both = repeated.filter(pl.col("rows") > 1).with_columns(
        pl.when(pl.col("place") == 0).then("first").otherwise("second").alias("instant")
    )
    placed = placed.scatter(both["row"], both["instant"]) if len(both) else placed
    found = (
        Offenders("nonexistent_time", skipped["row"].to_numpy(), NONEXISTENT),
        Offenders("ambiguous_time", single["row"].to_numpy(), AMBIGUOUS),
    )
    return placed, tuple(offenders for offenders in found if len(offenders.rows))


def _named(
    values: pl.Series, outside: pl.Series, tz: str | None, offenders: tuple[Offenders, ...]
) -> Stamps:
    """The stamps; rows without one, and rows out of range (made null), join the offenders."""
    outside = outside.fill_null(False)
    absent = (values.is_null() & ~outside).to_numpy().copy()
    for one in offenders:
        absent[one.rows] = False
    found = (
        Offenders("timestamp_invalid", np.flatnonzero(absent), INVALID),
        Offenders("timestamp_out_of_range", np.flatnonzero(outside.to_numpy()), OUT_OF_RANGE),
    )
    nulled = pl.select(pl.when(~outside).then(values)).to_series().rename("time")
    return Stamps(nulled, tz, (*offenders, *(one for one in found if len(one.rows))))


def _whole_column(code: str, message: str, column: pl.Series) -> DataError:
    return DataError(message, [Fault(code, message, column=column.name)])
