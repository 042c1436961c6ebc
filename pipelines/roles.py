"""What the columns of an unknown table are probably for, by their content; names decide ties."""

from __future__ import annotations

import polars as pl

from pipelines.schema import Schema
from pipelines.stamps import read_stamps
from tsformer.errors import DataError

IDS = ("unique_id", "series", "id", "item_id", "series_id")
TIMES = ("ds", "date", "time", "timestamp", "datetime", "t")
VALUES = ("y", "value", "target")
MOSTLY = 0.5  # more than this share of the cells must read as what the column is taken for

DATED = r"^\s*\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b"


def guess(table: pl.DataFrame) -> Schema | None:
    """The roles of the columns of `table`; None without a time column or without numbers.

    A cell that cannot be read does not hide what its column is: the panel names the cell.
    """
    time = _time(table)
    if time is None:
        return None
    others = table.drop(time)
    numeric = [column.name for column in others if _numeric(column) > MOSTLY]
    identity = _identity(table, time, text=[n for n in others.columns if n not in numeric])
    values = [name for name in numeric if name != identity]
    if not values:
        return None
    if identity is not None:
        filled = [name for name in values if table[name].null_count() < len(table)]
        values = [next((n for n in VALUES if n in values), (filled or values)[0])]
    return Schema(id=identity, time=time, targets=tuple(values))


def _time(table: pl.DataFrame) -> str | None:
    """The column of which most cells are stamps; whole numbers count where the name says so."""
    named = [name for name in table.columns if name.lower() in TIMES]
    stamped = {name: _stamps(table[name]) for name in table.columns}
    usable = [name for name in table.columns if stamped[name] > MOSTLY]
    steps = [name for name in named if table.schema[name].is_integer()]
    # A column called "date" is meant as one, even if no cell of it can be read as such.
    meant = [name for name in table.columns if _dated(table[name]) > MOSTLY]
    return next(iter([*(n for n in named if n in usable), *usable, *steps, *named, *meant]), None)


def _identity(table: pl.DataFrame, time: str, *, text: list[str]) -> str | None:
    """The column that says whose row it is.

    Called so; else of text; else, where stamps repeat, of whole numbers: the one that leaves the
    fewest repeated stamps within a series.
    """
    named = [name for name in IDS if name in table.columns and name != time]
    if named:
        return named[0]
    repeated = table[time].n_unique() <= MOSTLY * len(table)
    whole = [
        n for n, kind in table.schema.items() if kind.is_integer() and n not in (time, *VALUES)
    ]
    candidates = text or (whole if repeated and table.width > 2 else [])
    pairs = {name: table.select(time, name).n_unique() for name in candidates}
    few = {name: -table[name].n_unique() for name in candidates}  # values repeat less than ids
    return max(candidates, key=lambda name: (pairs[name], few[name]), default=None)


def _stamps(column: pl.Series) -> float:
    """The share of the cells that are stamps; whole numbers are not."""
    if column.dtype.is_integer() or not len(column):
        return 0.0
    try:
        return 1 - read_stamps(column).values.null_count() / len(column)
    except DataError as error:
        # Offsets that differ are a fault of a time column, not a sign that it is none.
        return float(any(fault.code == "mixed_offsets" for fault in error.faults))


def _dated(column: pl.Series) -> float:
    """The share of the cells that look like dates in some notation, such as 31.1.2024."""
    if column.dtype != pl.String or not len(column):
        return 0.0
    return int(column.str.contains(DATED).sum()) / len(column)


def _numeric(column: pl.Series) -> float:
    """The share of the cells with a value that are numbers; 1 for a column without any."""
    if column.dtype.is_temporal() or column.dtype == pl.Boolean:
        return 0.0
    present = column.drop_nulls()
    numbers = present.cast(pl.Float64, strict=False)
    return 1 - numbers.null_count() / len(present) if len(present) else 1.0
