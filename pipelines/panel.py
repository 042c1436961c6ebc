"""From a table to a panel: many series on one kind of grid, everything wrong named at once.

This is the one door for data: behind it nothing checks columns, stamps or types again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.axis import regular, times_of_day
from pipelines.examination import Examined, examine
from pipelines.findings import Report
from pipelines.frequency import Frequency
from pipelines.mapping import Scratch
from pipelines.schema import Schema
from pipelines.tables import Table, read_table
from tsformer.errors import ConfigError, DataError, Fault

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
ON_INVALID = ("fail", "skip")
FILLED = {  # what becomes of the target, by `fill`
    "none": pl.col("y"),
    "mask": pl.col("y"),
    "ffill": pl.col("y").forward_fill().over("series"),
    "linear": pl.col("y").interpolate().over("series"),
    "zero": pl.col("y").fill_null(0.0),
}


@dataclass(frozen=True, eq=False)  # not slotted: the derived arrays are kept once computed
class Panel:
    """Series on regular grids of one frequency, gaps as missing.

    - `table`: sorted and long; `series` (Int32, the place in `ids`), `time`, `y` (Float64, null is
      missing), then the covariates under their own names (Float64, or String for categories).
    - `ids`: in order of first appearance, as they were given.
    - `tz`: the zone of `time`; a fixed offset such as "+05:30" where `time` is naive; or None.
    - `static`: one row a series in the order of `ids`, or None.
    - `scratch`: where the table is mapped from, if it is larger than the memory.
    - `dated`: False where `time` merely counts the steps, so it says nothing of the calendar.
    """

    table: pl.DataFrame
    ids: tuple[str | int, ...]
    frequency: Frequency
    tz: str | None
    schema: Schema
    static: pl.DataFrame | None = None
    scratch: Scratch | None = None
    dated: bool = True

    @cached_property
    def offsets(self) -> Rows:
        """First row of each series, and the end `[series + 1]`."""
        places = np.arange(len(self.ids) + 1, dtype=np.int32)  # as the column: no copy of it
        return np.searchsorted(self.table["series"].to_numpy(), places)

    @cached_property
    def target(self) -> Floats:
        """The values `[row]`; NaN where missing."""
        return self.column("y")

    def column(self, name: str) -> Floats:
        """A numeric column `[row]` as float64; NaN where missing."""
        column = self.table[name]
        if column.dtype == pl.String:
            raise ConfigError(f"The column {name} holds categories, not numbers.")
        return column.cast(pl.Float64).to_numpy()  # which has NaN for null

    @cached_property
    def last(self) -> pl.Series:
        """The last stamp of each series."""
        return self.table["time"][self.offsets[1:] - 1]

    @cached_property
    def ends(self) -> list[datetime | int]:
        """The last stamp of each series, as date-times (in their zone) or integers."""
        return self.last.to_list()

    @cached_property
    def aligned(self) -> bool:
        """Whether all series share one grid from start to end."""
        lengths = np.diff(self.offsets)
        if not len(lengths) or lengths.min() != lengths.max():
            return False
        firsts = self.table["time"].gather(self.offsets[:-1])
        return firsts.n_unique() == 1

    def following(self, periods: int) -> pl.Series:
        """The `periods` stamps after the end of each series, series after series."""
        steps = np.tile(np.arange(1, periods + 1), len(self.ids))
        return self.after(np.repeat(np.arange(len(self.ids)), periods), steps)

    def after(self, series: Rows, steps: Rows) -> pl.Series:
        """For each of `series`, places in `ids`, the stamp so many `steps` after its end."""
        if not self.ids:
            return self.table["time"].clear()
        ends = self.last[series]
        if not self.frequency.is_calendar:
            return self.frequency.shift(ends, steps)
        of_day = times_of_day(self.table["time"], self.offsets)
        return self.frequency.shift(ends, steps, of_day[series])

    def head(self, rows: int) -> Panel:
        """The first `rows` rows of each series; series that are shorter stay whole."""
        place = np.arange(len(self.table)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))
        return replace(self, table=self.table.filter(pl.Series(place < rows)))._without_empty()

    def until(self, stamp: datetime | int) -> Panel:
        """The rows up to and with `stamp`; series that start later are left out."""
        return replace(self, table=self.table.filter(pl.col("time") <= stamp))._without_empty()

    def from_first_values(self) -> Panel:
        """The rows of each series from its first value on; one that has none stays whole."""
        starts, missing = self.offsets[:-1], np.isnan(self.target)
        if not missing[starts].any():
            return self
        observed = np.append(np.flatnonzero(~missing), len(missing))
        firsts = observed[np.searchsorted(observed, starts)]
        firsts = np.where(firsts < self.offsets[1:], firsts, starts)
        kept = np.arange(len(missing)) >= np.repeat(firsts, np.diff(self.offsets))
        return replace(self, table=self.table.filter(pl.Series(kept, dtype=pl.Boolean)))

    def take(self, series: Sequence[int]) -> Panel:
        """The series at these places in `ids`, in this order."""
        spans = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in series]
        rows = np.concatenate(spans) if spans else np.empty(0, dtype=np.int64)
        numbers = np.repeat(np.arange(len(spans)), [len(span) for span in spans]).astype(np.int32)
        static = None if self.static is None else self.static[np.array(series, dtype=np.int64)]
        table = self.table[rows].with_columns(pl.Series("series", numbers))
        return replace(self, table=table, ids=tuple(self.ids[i] for i in series), static=static)

    def _without_empty(self) -> Panel:
        kept = np.flatnonzero(np.diff(self.offsets))
        return self if len(kept) == len(self.ids) else self.take(kept.tolist())


def read_panel(
    table: Table,
    *,
    schema: Schema,
    freq: str | int | None = None,
    tz: str | None = None,
    on_invalid: str = "fail",
    fill: str = "none",
    min_rows: int = 1,
    max_rows: int | None = None,
) -> tuple[Panel, Report]:
    """The panel of `table`, and what was found in each series.

    `table` is a polars or pandas frame, an Arrow table, or the path of a CSV or Parquet file.
    `freq` and `tz` default to what the data say. `fill` inserts missing rows of the grid (`mask`)
    and fills `y` there and where it is null. Rows of a fault count from 0 in the table as given.

    Raises DataError with every fault if `on_invalid` is `fail`. With `skip` series with faults are
    left out and named in the report; a fault of the whole table is still raised. TooManyRowsError
    where the filled grids would hold more than `max_rows`, before they are made.
    """
    _choice("on_invalid", on_invalid, ON_INVALID)
    _choice("fill", fill, tuple(FILLED))
    frame = read_table(table, columns=schema.roles)
    if not len(frame):
        message = "The table has no rows. Give at least two rows a series."
        raise DataError(message, [Fault("insufficient_history", message)])
    found = examine(frame, schema, freq=freq, tz=tz, fill=fill, min_rows=min_rows)
    warnings = found.warnings
    if isinstance(table, str | Path) and not found.axis.in_order:
        message = "The rows of the file are not sorted by time; they were sorted."
        warnings = (*warnings, Fault("unsorted", message))
    report = found.series.report(found.rows, found.faults, warnings)
    if on_invalid == "fail" and report.all_faults:
        bad = len(report.invalid)
        summary = (
            f"{bad} of {len(report.series)} series are invalid." if bad else "Rows lack an id."
        )
        raise DataError(summary, report.all_faults)
    rows = found.rows_of_grids(schema)
    if max_rows is not None and rows > max_rows:
        raise TooManyRowsError(rows, max_rows)
    return _build(found, schema, fill), report


class TooManyRowsError(DataError):
    """Grids that would hold more rows than the caller can take."""

    def __init__(self, rows: int, maximum: int) -> None:
        super().__init__(
            f"With missing rows inserted the series have {rows} rows; at most {maximum} are taken. "
            "Give fewer series, or a coarser freq."
        )
        self.rows = rows


def _build(found: Examined, schema: Schema, fill: str) -> Panel:
    """The panel of the series without faults."""
    kept = [n for n in range(len(found.series.ids)) if n not in found.series.faults]
    ids = tuple(found.series.ids[n] for n in kept)
    if not kept or found.frequency is None or found.steps is None:
        return _empty(found, schema)
    on_axis = [0] if schema.wide else kept
    times, source, lengths = regular(found.axis, found.steps, found.frequency, on_axis)
    if source is None and len(times) < len(found.targets[0]):  # without the rows that lack an id
        source = pl.Series(found.axis.rows)
    copies = len(kept) if schema.wide else 1
    targets = [found.targets[n] for n in kept] if schema.wide else found.targets
    y = [values if source is None else values.gather(source) for values in targets]
    columns = {
        "series": pl.Series(np.repeat(np.arange(len(kept)), lengths * np.ones(len(kept), int))),
        "time": _stacked([times] * copies),
        "y": _stacked(y),
    }
    for name, values in found.covariates.items():
        placed = values if source is None else values.gather(source)
        columns[name] = _stacked([placed] * copies)
    table = pl.DataFrame(columns).with_columns(pl.col("series").cast(pl.Int32))
    return Panel(
        table=table.with_columns(FILLED[fill]),
        ids=ids,
        frequency=found.frequency,
        tz=found.axis.tz,
        schema=schema,
        static=None if found.static is None else found.static[kept],
    )


def _empty(found: Examined, schema: Schema) -> Panel:
    """The panel without series that remains where all were skipped."""
    table = pl.DataFrame(
        {"series": pl.Series([], dtype=pl.Int32), "time": found.axis.times.clear(),
         "y": pl.Series([], dtype=pl.Float64)}
        | {name: values.clear() for name, values in found.covariates.items()}
    )  # fmt: skip
    static = None if found.static is None else found.static.clear()
    frequency = found.frequency or Frequency("")
    return Panel(table, (), frequency, found.axis.tz, schema, static)


def _stacked(parts: list[pl.Series] | tuple[pl.Series, ...]) -> pl.Series:
    return parts[0] if len(parts) == 1 else pl.concat(parts)


def _choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ConfigError(f"{name} must be one of {', '.join(valid)}, got '{value}'.")
