"""A table on a coarser grid: rows gathered into the steps of a frequency, each series by itself.

A step of elapsed time, of `D`, `B`, `MS`, `QS` or `YS` has its first moment as its stamp; one of
`W`, `ME`, `QE` and `YE` its last day. These are the labels of pandas. Deviation: multiples (`5h`,
`2D`, `2QE`) are counted from 1970, so that all series share one grid; pandas counts them from the
first row, so there the labels may be others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import times
from pipelines.axis import Axis, check_ids, null_ids, number_ids, read_axis
from pipelines.findings import Findings, Report, SeriesReport, counted
from pipelines.frequency import ELAPSED, Frequency
from pipelines.panel import Panel, read_panel
from pipelines.schema import LONE_ID, Schema
from pipelines.times import DAY
from pipelines.values import Column, covariate, numbers
from tsformer.errors import DataError, Fault

Agg = Literal["mean", "sum", "last", "first", "min", "max"]
Rows = NDArray[np.int64]
ENDS = ("W", "ME", "QE", "YE")  # units whose steps are named after their last day


@dataclass(frozen=True, slots=True)
class Resample:
    """The grid that rows are gathered on, and what a step makes of its rows.

    Missing values are passed over. Numbers of other columns are treated like the target; of text
    the last is taken (`first`: the first).
    """

    frequency: Frequency
    agg: Agg = "mean"


def read_resampled(
    frame: pl.DataFrame, *, schema: Schema, resample: Resample, tz: str | None = None,
    on_invalid: str = "fail", fill: str = "none", max_rows: int | None = None,
) -> tuple[Panel, Report]:  # fmt: skip
    """`read_panel` of a long table after its rows were gathered; rows of faults are as given.

    What is wrong with single rows is found before: a series with such a fault is not gathered.
    """
    coarse = _gathered(frame, schema, resample, tz)
    if not len(coarse.frame):
        table = pl.DataFrame({"series": pl.Series([], dtype=pl.Int32), "time": coarse.times[:0],
                              "y": pl.Series([], dtype=pl.Float64)})  # fmt: skip
        panel = Panel(table, (), resample.frequency, coarse.tz, schema)
        report = coarse.merged(Report(()))
    else:
        panel, found = read_panel(
            coarse.frame, schema=schema, freq=str(resample.frequency), tz=coarse.tz,
            on_invalid="skip", fill=fill, max_rows=max_rows,
        )  # fmt: skip
        report = coarse.merged(found)
    if on_invalid == "fail" and report.all_faults:
        bad = len(report.invalid)
        summary = f"{bad} of {len(report.series)} series are invalid." if bad else "No id."
        raise DataError(summary, report.all_faults)
    return panel, report


@dataclass(frozen=True, slots=True)
class _Gathered:
    """The table on its new grid, and what was found in the rows that made it."""

    frame: pl.DataFrame
    rows: Rows  # [step]: the first row of each, as given
    times: pl.Series
    tz: str | None
    before: Report  # on the rows as given

    def merged(self, after: Report) -> Report:
        """One report: faults of rows, then those of steps at the first row of each."""
        by_id = {entry.id: entry for entry in after.series}
        entries = tuple(self._entry(entry, by_id.get(entry.id)) for entry in self.before.series)
        return replace(after, series=entries, faults=self.before.faults)

    def _entry(self, before: SeriesReport, after: SeriesReport | None) -> SeriesReport:
        if after is None:
            return before
        warnings = (*before.warnings, *after.warnings)
        faults = tuple(self._placed(fault) for fault in after.faults)
        return replace(after, rows=before.rows, faults=faults, warnings=warnings)

    def _placed(self, fault: Fault) -> Fault:
        return fault if fault.row is None else replace(fault, row=int(self.rows[fault.row]))


def _gathered(frame: pl.DataFrame, schema: Schema, resample: Resample, tz: str | None) -> _Gathered:
    rows = np.arange(len(frame))
    if schema.id is None:
        frame = frame.with_columns(pl.lit(LONE_ID).alias("lone"))
    name = schema.id or "lone"
    numbered = number_ids(frame[name])
    found = Findings(numbered.ids)
    check_ids(numbered, found)
    axis = read_axis(frame[schema.time], series=numbered.series, rows=rows, tz=tz, found=found)
    if resample.frequency.is_integer != axis.times.dtype.is_integer():
        message = f"The stamps are not of the kind that '{resample.frequency}' is a step of."
        raise DataError(message, [Fault("timestamp_invalid", message)])
    values = {"y": numbers(_column(frame, schema.targets[0], numbered.series, rows), found=found)}
    for column in schema.covariates:
        values[column] = covariate(_column(frame, column, numbered.series, rows), found=found)
    values |= {column: frame[column] for column in schema.static}
    cells = {column: cells.gather(axis.rows) for column, cells in values.items()}
    table = pl.DataFrame(
        {"series": axis.series, "step": steps_of(axis, resample.frequency),
         "at": times.elapsed(axis.times), "row": axis.rows, **cells}
    )  # fmt: skip
    table = table.filter(~pl.col("series").is_in([*found.faults]))
    steps = _aggregated(table, resample.agg, schema)
    labels = _labels(steps["step"].to_numpy(), resample.frequency, axis)
    _warn(found, steps, resample)
    own = {} if schema.id is None else {schema.id: frame[name].gather(steps["row"])}
    columns = [*schema.covariates, *schema.static]
    coarse = pl.DataFrame(
        {
            **own,
            schema.time: labels,
            schema.targets[0]: steps["y"],
            **{c: steps[c] for c in columns},
        }
    )
    counts = np.bincount(numbered.series[numbered.series >= 0], minlength=len(numbered.ids))
    report = found.report(counts, null_ids(numbered.series, schema.id), ())
    return _Gathered(coarse, steps["row"].to_numpy(), axis.times, axis.tz, report)


def _column(frame: pl.DataFrame, name: str, series: Rows, rows: Rows) -> Column:
    return Column(name, frame[name], series, rows)


def steps_of(axis: Axis, frequency: Frequency) -> Rows:
    """A number for the step of each row; equal steps have equal numbers in all series."""
    if not frequency.is_calendar:
        stamps = times.elapsed(axis.times)
        width = frequency.count * ELAPSED.get(frequency.unit, 1)
        steps: Rows = (stamps + _shift(axis)) // width
        return steps
    days = times.wall(axis.times) // DAY
    if frequency.unit in ENDS:
        ends = frequency.lattice.ordinals(days - 1) + 1  # the first lattice day from here on
        return -(-ends // frequency.count)
    whole: Rows = frequency.lattice.ordinals(days) // frequency.count
    return whole


def _shift(axis: Axis) -> int:
    """The offset from UTC of the first stamp: steps begin at whole ones of its wall clock."""
    if not len(axis.times) or axis.times.dtype.is_integer():
        return 0
    earliest = axis.times.to_physical().arg_min() or 0
    first = axis.times[earliest : earliest + 1]
    return int(times.wall(first)[0] - times.elapsed(first)[0])


def _labels(steps: Rows, frequency: Frequency, axis: Axis) -> pl.Series:
    """The stamps of steps."""
    if frequency.is_integer:
        return pl.Series(steps * frequency.count)
    zone = times.zone_of(axis.times)
    if frequency.is_elapsed:
        width = frequency.count * ELAPSED[frequency.unit]
        return times.instants(steps * width - _shift(axis), zone)
    days = frequency.lattice.days(steps * frequency.count)
    return times.localise_forward(times.naive(days * DAY), zone)


def _aggregated(table: pl.DataFrame, agg: Agg, schema: Schema) -> pl.DataFrame:
    """A row a series and step, in order; equal stamps are ordered by their values."""
    seen = {
        "mean": pl.Expr.mean, "sum": pl.Expr.sum, "last": pl.Expr.last, "first": pl.Expr.first,
        "min": pl.Expr.min, "max": pl.Expr.max,
    }  # fmt: skip
    picked = "first" if agg == "first" else "last"

    def made(name: str) -> pl.Expr:
        column = pl.col(name).drop_nulls()
        text = table[name].dtype == pl.String or name in schema.static
        value = seen[picked if text else agg](column)
        return pl.when(column.len() > 0).then(value).alias(name)

    names = ["y", *schema.covariates, *schema.static]
    return (
        table.sort("series", "at", "y", maintain_order=True)
        .group_by("series", "step", maintain_order=True)
        .agg(pl.col("row").min(), pl.len().alias("gathered"), *(made(name) for name in names))
        .sort("series", "step")
    )


def _warn(found: Findings, steps: pl.DataFrame, resample: Resample) -> None:
    counts = steps.group_by("series", maintain_order=True).agg(pl.col("gathered").sum(), pl.len())
    for series, rows, made in counts.iter_rows():
        message = (
            f"{counted(rows, 'row')} became {counted(made, 'step')} of '{resample.frequency}' "
            f"({resample.agg})."
        )
        found.warn(series, "resampled", message, count=rows)
