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

from pipelines.axis import (
    Axis,
    Numbered,
    Steps,
    check_grid,
    check_ids,
    find_frequency,
    null_ids,
    number_ids,
    read_axis,
    regular,
    times_of_day,
)
from pipelines.findings import Findings, Report, SeriesReport
from pipelines.frequency import Frequency
from pipelines.mapping import Scratch
from pipelines.tables import Table, read_table
from pipelines.values import Column, check_target, covariate, numbers, static_table
from tsformer.errors import ConfigError, DataError, Fault

__all__ = ["Panel", "Report", "Schema", "SeriesReport", "TooManyRowsError", "read_panel"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
FILLS = ("none", "mask", "ffill", "linear", "zero")
ON_INVALID = ("fail", "skip")
OWN = ("series", "time", "y")  # columns of a panel's table that a covariate cannot be called
LONE_ID = "0"


@dataclass(frozen=True, slots=True)
class Schema:
    """What the columns of a table are for.

    One target: the table is long, with a row for each series and time; without `id` it is one
    series, "0". Several targets: the table is wide, and each target is a series of its own name.
    """

    time: str
    targets: tuple[str, ...]
    id: str | None = None
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [*([self.id] if self.id else []), self.time, *self.targets, *self.covariates]
        names += self.static
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"schema: {', '.join(twice)} has two roles. Give each column one.")
        if not self.targets:
            raise ConfigError("schema: 'targets' is empty. Name the column to forecast.")
        if self.wide and (self.id or self.static):
            raise ConfigError(
                "schema: with several targets each is a series, so 'id' and 'static' have no "
                "meaning. Name one target, or leave them out."
            )
        own = [name for name in self.covariates if name in OWN]
        if own:
            raise ConfigError(f"schema: a covariate cannot be called {own[0]}. Rename the column.")

    @property
    def wide(self) -> bool:
        """Whether each target is a series."""
        return len(self.targets) > 1

    @property
    def covariates(self) -> tuple[str, ...]:
        """Columns that vary in time beside the target: known ahead, then known in the past only."""
        return (*self.known, *self.past)

    @property
    def roles(self) -> dict[str, str]:
        """Each column that is read, and its role."""
        named = {"id": (self.id,) if self.id else (), "time": (self.time,), "target": self.targets}
        named |= {"covariate": self.covariates, "static": self.static}
        return {name: role for role, names in named.items() for name in names}


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
    _choice("fill", fill, FILLS)
    frame = read_table(table, columns=schema.roles)
    if not len(frame):
        message = "The table has no rows. Give at least two rows a series."
        raise DataError(message, [Fault("insufficient_history", message)])
    found = _examine(frame, schema, freq=freq, tz=tz, fill=fill, min_rows=min_rows)
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
    rows = _rows_of_grids(found, schema)
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


@dataclass(frozen=True, slots=True)
class _Examined:
    """A table read and checked: its axis, its columns by row as given, and what was found."""

    axis: Axis
    frequency: Frequency | None
    steps: Steps | None
    targets: tuple[pl.Series, ...]
    covariates: dict[str, pl.Series]
    static: pl.DataFrame | None
    series: Findings
    rows: Rows  # [series]
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]


def _examine(
    frame: pl.DataFrame, schema: Schema, *, freq: str | int | None, tz: str | None, fill: str,
    min_rows: int,
) -> _Examined:  # fmt: skip
    """Every check on the rows of `frame`; in a wide table the axis is one for all series."""
    rows = np.arange(len(frame))
    numbered = number_ids(frame[schema.id]) if schema.id else _lone(len(frame))
    found = Findings(numbered.ids)
    check_ids(numbered, found)
    axis = read_axis(frame[schema.time], series=numbered.series, rows=rows, tz=tz, found=found)
    frequency, warnings = find_frequency(axis, freq, found=found)
    steps = None if frequency is None else check_grid(axis, frequency, fill=fill, found=found)

    def column(name: str, series: Rows) -> Column:
        return Column(name, frame[name], series, rows)

    covariates = {
        name: covariate(column(name, numbered.series), found=found) for name in schema.covariates
    }
    static = None
    if schema.static:
        static = static_table(frame.select(schema.static), numbered.series, rows, found)
    series = [numbered.series]
    if schema.wide:
        _raise_shared(found)
        warnings = (*warnings, *(replace(w, series=None) for w in found.warnings.get(0, ())))
        found = Findings(schema.targets)
        series = [np.full(len(frame), n) for n in range(len(schema.targets))]
    targets = []
    for name, of_cell in zip(schema.targets, series, strict=True):
        target = column(name, of_cell)
        values = numbers(target, found=found)
        check_target(target, values, min_rows=min_rows, fill=fill, found=found)
        targets.append(values)
    counts = [np.bincount(of_cell[of_cell >= 0], minlength=len(found.ids)) for of_cell in series]
    return _Examined(
        axis, frequency, steps, tuple(targets), covariates, static, found,
        np.sum(counts, axis=0), null_ids(numbered.series, schema.id), warnings,
    )  # fmt: skip


def _build(found: _Examined, schema: Schema, fill: str) -> Panel:
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


def _rows_of_grids(found: _Examined, schema: Schema) -> int:
    """Rows of the grids of the series without faults, those that are missing counted."""
    if found.steps is None or not len(found.steps.index):
        return 0
    offsets = found.axis.offsets
    lengths = np.where(np.diff(offsets) > 0, found.steps.index[offsets[1:] - 1] + 1, 0)
    kept = [n for n in range(len(found.series.ids)) if n not in found.series.faults]
    return int(lengths[0]) * len(kept) if schema.wide else int(lengths[kept].sum())


FILLED = {
    "none": pl.col("y"),
    "mask": pl.col("y"),
    "ffill": pl.col("y").forward_fill().over("series"),
    "linear": pl.col("y").interpolate().over("series"),
    "zero": pl.col("y").fill_null(0.0),
}


def _empty(found: _Examined, schema: Schema) -> Panel:
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


def _lone(rows: int) -> Numbered:
    return Numbered((LONE_ID,), np.zeros(rows, dtype=np.int64))


def _raise_shared(found: Findings) -> None:
    """Faults of the axis that all series of a wide table share belong to none of them."""
    faults = [replace(fault, series=None) for faults in found.faults.values() for fault in faults]
    if faults:
        raise DataError("The time axis of the table cannot be used.", faults)


def _choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ConfigError(f"{name} must be one of {', '.join(valid)}, got '{value}'.")
