"""The values of a table: numbers, covariates and static attributes, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.findings import Findings, counted, offences

Rows = NDArray[np.int64]

FILLS_VALUES = ("ffill", "linear", "zero")  # these also fill nulls in rows that are there


@dataclass(frozen=True, slots=True)
class Column:
    """A column of cells: its name, the series and the row (in the table as given) of each."""

    name: str
    values: pl.Series
    series: Rows
    rows: Rows


def numbers(column: Column, *, found: Findings) -> pl.Series:
    """The column as Float64 with null for missing; what is no number, or infinite, is noted."""
    values = column.values
    if values.dtype.is_numeric():
        cast = values.cast(pl.Float64)
    elif values.dtype in (pl.String, pl.Null):
        cast = values.cast(pl.Float64, strict=False)
    else:
        cast = pl.repeat(None, len(values), dtype=pl.Float64, eager=True)
    _note(
        cast.is_null() & values.is_not_null(), column, found,
        "non_numeric", "Not a number. Give numbers, or leave missing values empty.",
    )  # fmt: skip
    cast = cast.fill_nan(None)
    if _has_infinity(cast):
        _note(
            cast.is_infinite().fill_null(False), column, found,
            "non_finite", "Infinite. Give a finite number, or null where it is missing.",
        )  # fmt: skip
    return cast


def covariate(column: Column, *, found: Findings) -> pl.Series:
    """A covariate: text is a category and stays, everything else becomes Float64."""
    if column.values.dtype == pl.String:
        return column.values
    if column.values.dtype == pl.Boolean:
        return column.values.cast(pl.Float64)
    return numbers(column, found=found)


def check_target(
    target: Column, values: pl.Series, *, min_rows: int, fill: str, found: Findings
) -> None:
    """Series without any value, too short, constant, or with missing values."""
    y = pl.col("y")
    stats = (
        pl.DataFrame({"series": target.series, "y": values})
        .group_by("series")
        .agg(
            pl.len().cast(pl.Int64).alias("rows"),
            y.null_count().cast(pl.Int64).alias("missing"),
            (y.min() == y.max()).fill_null(False).alias("constant"),
        )
        .filter(
            pl.col("series") >= 0,
            (pl.col("missing") > 0) | pl.col("constant") | (pl.col("rows") < min_rows),
        )
        .sort("series")
    )
    for series, rows, missing, constant in stats.iter_rows():
        observed = rows - missing
        if rows < min_rows:
            message = f"{counted(rows, 'row')}; at least {min_rows} are needed. Send more history."
            found.fault(series, "insufficient_history", message, count=rows)
        if not observed:
            message = "No row of this series has a value. Leave the series out, or give values."
            found.fault(series, "all_missing", message, column=target.name, count=rows)
        elif missing:
            message = f"{counted(missing, 'value is', 'values are')} missing."
            found.warn(series, "values_missing", message, count=missing)
            if fill in FILLS_VALUES:
                message = f"Missing values were filled ({fill}) where the series allows it."
                found.warn(series, "gap_filled", message, count=missing)
        if constant and observed > 1:
            found.warn(series, "constant_series", "All values of this series are equal.")


def static_table(frame: pl.DataFrame, series: Rows, rows: Rows, found: Findings) -> pl.DataFrame:
    """One row a series of attributes, which must not change within a series; nulls are passed over."""
    names = frame.columns
    numbered = frame.with_columns(pl.Series("series", series), pl.Series("row", rows))
    numbered = numbered.rename({name: f"static {n}" for n, name in enumerate(names)})
    values = [pl.col(f"static {n}").drop_nulls() for n in range(len(names))]
    table = numbered.group_by("series", maintain_order=True).agg(
        *(value.first() for value in values),
        *(value.n_unique().alias(f"kinds {n}") for n, value in enumerate(values)),
    )
    table = table.filter(pl.col("series") >= 0).sort("series")
    for n, name in enumerate(names):
        for number in table.filter(pl.col(f"kinds {n}") > 1)["series"]:
            message = f"{name} changes within the series. Give one value a series, or drop it."
            found.fault(number, "static_conflict", message, column=name)
    return table.select(pl.col(f"static {n}").alias(name) for n, name in enumerate(names))


def _note(mask: pl.Series, column: Column, found: Findings, code: str, message: str) -> None:
    if not mask.any():
        return
    for one in offences(mask.to_numpy(), column.series):
        more = f" {counted(one.count, 'row')} in this series." if one.count > 1 else ""
        found.fault(
            one.series, code, message + more,
            row=int(column.rows[one.position]), column=column.name, count=one.count,
        )  # fmt: skip


def _has_infinity(values: pl.Series) -> bool:
    bounds = (values.min(), values.max())
    return any(isinstance(bound, float) and np.isinf(bound) for bound in bounds)
