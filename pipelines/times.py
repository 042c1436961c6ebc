"""Wall and clock: time zones, repeated and skipped hours, stamps as text.

A stamp is an integer step index, a naive date and time, or an instant in an IANA zone, in
microseconds. Polars knows no fixed offsets such as `+05:30`: such stamps are kept naive, as the
wall there shows them, and the offset is kept beside them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsformer.errors import ConfigError

Rows = NDArray[np.int64]

SECOND = 1_000_000  # microseconds
DAY = 86_400 * SECOND
EPOCH = datetime(1970, 1, 1)
EPOCH_WEEKDAY = 3  # a Thursday; Monday is 0
FIRST = (datetime(1700, 1, 1) - EPOCH).days * DAY  # microseconds; the range of the HTTP contract
LAST = (datetime(2201, 1, 1) - EPOCH).days * DAY - 1
LAST_INDEX = 2**53  # a larger integer index is no longer exact as a float64

_OFFSET = re.compile(r"[+-](?:0\d|1[0-4]):[0-5]\d")


def is_offset(tz: str | None) -> bool:
    """Whether `tz` is a fixed offset (`+05:30`) and not the name of a zone."""
    return tz is not None and _OFFSET.fullmatch(tz) is not None


def offset_seconds(offset: str) -> int:
    """The seconds east of UTC of `+05:30` or `UTC`."""
    if offset == "UTC":
        return 0
    seconds = int(offset[1:3]) * 3600 + int(offset[4:6]) * 60
    return -seconds if offset[0] == "-" else seconds


def check_zone(tz: str) -> str:
    """`tz` if it is an IANA zone or a fixed offset; ConfigError else."""
    if is_offset(tz):
        return tz
    try:
        ZoneInfo(tz)
        pl.Series([EPOCH]).dt.replace_time_zone(tz)
    except Exception:
        raise ConfigError(
            "tz is not the name of an IANA time zone. Use a name such as Europe/Berlin or UTC."
        ) from None
    return tz


def zone_of(times: pl.Series) -> str | None:
    """The zone of a column of instants; None for naive stamps and integers."""
    zone: str | None = getattr(times.dtype, "time_zone", None)
    return zone


def wall(times: pl.Series) -> Rows:
    """Microseconds since 1970-01-01 as the wall shows them."""
    return times.dt.replace_time_zone(None).to_physical().to_numpy()


def elapsed(times: pl.Series) -> Rows:
    """Microseconds since 1970-01-01, in UTC for instants and on the wall for naive stamps."""
    return times.cast(pl.Int64).to_numpy()


def utc(times: pl.Series, tz: str | None) -> Rows:
    """As `elapsed`, and in UTC for stamps at the fixed offset `tz`."""
    east = offset_seconds(tz) if tz is not None and is_offset(tz) else 0
    return elapsed(times) - east * SECOND


def naive(values: Rows) -> pl.Series:
    """Naive stamps at `values` microseconds since 1970-01-01."""
    return pl.Series("time", values, dtype=pl.Int64).cast(pl.Datetime("us"))


def instants(values: Rows, tz: str | None) -> pl.Series:
    """Stamps at `values` microseconds since 1970-01-01 UTC, in `tz`; naive ones without it."""
    stamps = naive(values)
    if tz is None:
        return stamps
    return stamps.dt.replace_time_zone("UTC").dt.convert_time_zone(tz)


def localise(walls: pl.Series, tz: str) -> pl.Series:
    """Wall times as instants in `tz`: null in a clock gap, the first pass of a repeated hour."""
    return walls.dt.replace_time_zone(tz, ambiguous="earliest", non_existent="null")


def localise_forward(walls: pl.Series, tz: str | None) -> pl.Series:
    """Wall times as instants in `tz`; what lies in a clock gap moves to the end of the gap."""
    if tz is None:
        return walls
    placed = localise(walls, tz)
    gaps = np.flatnonzero(placed.is_null().to_numpy())
    if not len(gaps):
        return placed
    moved = walls.gather(gaps).to_list()
    ends = {stamp: _gap_end(stamp, ZoneInfo(tz)) for stamp in set(moved)}
    values = placed.to_physical().fill_null(0).to_numpy().copy()
    values[gaps] = [ends[stamp] for stamp in moved]
    return instants(values, tz)


def _gap_end(stamp: datetime, zone: ZoneInfo) -> int:
    """Microseconds of the instant at which the clock gap around the wall time `stamp` ends.

    In a gap `fold` picks the offset after (1) or before (0) it (PEP 495), so the two readings
    enclose the change; bisection finds the second at which the offset changes.
    """
    early, late = (int(stamp.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (1, 0))
    before = _offset_at(early, zone)
    while late - early > 1:
        middle = (early + late) // 2
        if _offset_at(middle, zone) == before:
            early = middle
        else:
            late = middle
    return late * SECOND


def _offset_at(second: int, zone: ZoneInfo) -> timedelta | None:
    return (EPOCH.replace(tzinfo=UTC) + timedelta(seconds=second)).astimezone(zone).utcoffset()


def text(times: pl.Series, tz: str | None = None) -> pl.Series:
    """Stamps as ISO 8601 text with the offset of their zone, or of the fixed offset `tz`."""
    if times.dtype.is_integer():
        return times.cast(pl.String)
    suffix = "%:z" if zone_of(times) else (tz if tz is not None and is_offset(tz) else "")
    return times.dt.strftime(f"%Y-%m-%dT%H:%M:%S%.f{suffix}")
