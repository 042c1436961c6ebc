"""The short way from one clean series to its panel.

`read_panel` examines any table and costs some milliseconds, however small the table. Most requests
are one complete, sorted series of naive stamps at a given step; for those the panel is written
down directly. It is the very panel that `read_panel` gives (a test compares them); whatever is
not as simple is left to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.findings import Report, SeriesReport
from pipelines.frequency import ELAPSED, Frequency
from pipelines.panel import Panel
from pipelines.schema import LONE_ID, Schema
from pipelines.times import DAY
from serving.schemas.series import Series

STAMP = np.frombuffer(b"0000-00-00T00:00:00", np.uint8)
SEPARATORS = np.flatnonzero(ord("0") != STAMP)
DIGITS = np.flatnonzero(ord("0") == STAMP)
EARLIEST, LATEST = np.datetime64("1701", "us"), np.datetime64("2199", "us")
Stamps = NDArray[np.datetime64]


def read(asked: Series, schema: Schema) -> tuple[Panel, Report] | None:
    """The panel of a request with one clean series, or None."""
    if asked.freq is None or asked.tz is not None or schema.covariates or schema.static:
        return None
    data, columns = asked.data, asked.columns
    if any(isinstance(cells, pl.Series) for cells in data.values()):
        return None  # of Arrow, which comes in large tables
    name = _only(data[columns.id]) if columns.id in data else LONE_ID
    if name is None:
        return None
    frequency = Frequency.candidates(asked.freq)[0]
    times = _regular(data[columns.time], frequency)
    y = _clean(data[columns.target])
    if times is None or y is None:
        return None
    table = pl.DataFrame({"series": np.zeros(len(y), np.int32), "time": times, "y": y})
    panel = Panel(table=table, ids=(name,), frequency=frequency, tz=None, schema=schema)
    return panel, Report((SeriesReport(name, len(y), "ok"),))


def _only(ids: Sequence[object]) -> str | int | None:
    """The one id of all rows, if it is beyond doubt a good one."""
    if len(set(ids)) != 1:
        return None
    name = ids[0]
    if isinstance(name, str):
        return name if 1 <= len(name) <= 128 and name.isprintable() else None
    return name if type(name) is int else None


def _regular(cells: Sequence[object], frequency: Frequency) -> Stamps | None:
    """Naive stamps in full that follow each other at the step of `frequency`."""
    step = DAY if frequency.unit == "D" else ELAPSED.get(frequency.unit)
    if step is None or set(map(type, cells)) != {str}:
        return None
    stamps: list[str] = cells  # type: ignore[assignment]
    if set(map(len, stamps)) != {len(STAMP)}:
        return None
    text = "".join(stamps)
    if not text.isascii():
        return None
    letters = np.frombuffer(text.encode(), np.uint8).reshape(-1, len(STAMP))
    digits = letters[:, DIGITS]
    if (letters[:, SEPARATORS] != STAMP[SEPARATORS]).any() or (digits - ord("0") > 9).any():
        return None
    try:
        times: Stamps = np.array(stamps, dtype="datetime64[us]")
    except ValueError:  # February 30th
        return None
    even = (np.diff(times).astype(np.int64) == step * frequency.count).all()
    return times if even and times[0] > EARLIEST and times[-1] < LATEST else None


def _clean(cells: Sequence[object]) -> NDArray[np.float64] | None:
    """Finite numbers without a missing one, not all of them equal."""
    if not set(map(type, cells)) <= {int, float}:
        return None
    y = np.array(cells, dtype=np.float64)
    return y if len(y) and -np.inf < y.min() < y.max() < np.inf else None
