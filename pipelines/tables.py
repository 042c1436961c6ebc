"""Reading tables: polars, pandas, Arrow, CSV and Parquet into one polars frame of plain columns.

Types are checked on the schema before any value is touched: extension types of Arrow can run the
sender's code when they are decoded. CSV columns are read as text, so that ids stay byte for byte,
and only value columns become numbers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import polars as pl
import pyarrow as pa

from pipelines.times import is_offset, offset_seconds, text
from tsformer.errors import ConfigError, DataError, Fault

Table: TypeAlias = "pl.DataFrame | pd.DataFrame | pa.Table | Path | str"

CSV = (".csv", ".txt", ".csv.gz")
PARQUET = (".parquet", ".pq")
MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "Null", "null", "None", "-")
PLAIN = (
    pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64,
    pl.Float32, pl.Float64, pl.String, pl.Date, pl.Datetime, pl.Null, pl.Categorical, pl.Enum,
)  # fmt: skip
# The code for a column of a type that is not plain, by what the column is for.
CODES: Mapping[str, str] = {"id": "id_invalid", "time": "timestamp_invalid"}


def read_table(table: Table, *, columns: Mapping[str, str]) -> pl.DataFrame:
    """The named columns of `table`; `columns` maps each name to its role (`id`, `time`, ...).

    Raises DataError for a file that cannot be read, absent columns (all at once) and types other
    than numbers, text, dates, booleans and nulls.
    """
    if isinstance(table, str | Path):
        return _file(Path(table), columns)
    if isinstance(table, pl.DataFrame):
        _demand(columns, table.columns)
        return _plain(table.select(list(columns)), columns)
    if isinstance(table, pa.Table):
        _demand(columns, table.column_names)
        return _arrow(table, columns)
    if isinstance(table, pd.DataFrame):
        return _pandas(table, columns)
    raise ConfigError(
        f"table must be a polars or pandas frame, an Arrow table, or the path of a CSV or "
        f"Parquet file, got {type(table).__name__}."
    )


def _file(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    name = path.name.lower()
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        if name.endswith(PARQUET):
            return _parquet(path, columns)
        if name.endswith(CSV):
            return _csv(path, columns)
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError):
        kind = "Parquet" if name.endswith(PARQUET) else "CSV in UTF-8, as many fields in each row"
        raise DataError(f"{path} cannot be read. Expected {kind}.") from None
    raise DataError(f"{path}: expected a file ending in {', '.join((*CSV, *PARQUET))}.")


def _csv(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    header = pl.read_csv(path, n_rows=0, infer_schema=False).columns
    _demand(columns, header)
    cells = pl.read_csv(path, columns=list(columns), infer_schema=False).select(list(columns))
    return cells.with_columns(
        _step_index(cells[name]) if role == "time" else _number(cells[name])
        for name, role in columns.items()
        if role != "id"
    )


def _step_index(column: pl.Series) -> pl.Series:
    """A time column of whole numbers as integers; any other as it is."""
    is_index = bool(column.str.contains(r"^-?\d{1,18}$").all())
    return column.cast(pl.Int64) if is_index and len(column) else column


def _number(column: pl.Series) -> pl.Series:
    """Text as numbers if all of it is; else as it is, without the usual words for missing."""
    known = pl.select(pl.when(~column.is_in(list(MISSING))).then(column)).to_series()
    numbers = known.str.strip_chars().cast(pl.Float64, strict=False)
    numeric = numbers.null_count() == known.null_count()
    return (numbers if numeric else known).rename(column.name)


def read_rows(path: Path, *, columns: Mapping[str, str], start: int, rows: int) -> pl.DataFrame:
    """The named columns of some rows of a Parquet file; only row groups with any are decoded.

    Types and columns are refused as by `read_table`.
    """
    try:
        _check_parquet(path, columns)
        scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        return _plain(scan.select(list(columns)).slice(start, rows).collect(), columns)
    except (pl.exceptions.PolarsError, OSError, ValueError):
        raise DataError(f"{path} cannot be read. Expected Parquet.") from None


def _parquet(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    _check_parquet(path, columns)
    return _plain(pl.read_parquet(path, columns=list(columns)).select(list(columns)), columns)


def _check_parquet(path: Path, columns: Mapping[str, str]) -> None:
    """Refuses by the footer alone; polars, unlike pyarrow, never runs code of extension types."""
    stored = pl.read_parquet_metadata(path).get("ARROW:schema", "")
    if b"ARROW:extension:name" in base64.b64decode(stored):
        raise DataError(f"{path} has a column of an extension type. Store it as a plain type.")
    schema = pl.read_parquet_schema(path)
    _demand(columns, list(schema))
    _refuse({name: schema[name] for name in columns}, columns)


def _arrow(table: pa.Table, columns: Mapping[str, str]) -> pl.DataFrame:
    refused = [name for name in columns if not _plain_arrow(table.schema.field(name))]
    if refused:
        raise _refused(refused, columns)
    table = table.select(list(columns))
    offsets = {f.name: f.type.tz for f in table.schema if is_offset(getattr(f.type, "tz", None))}
    for name in offsets:  # polars knows no fixed offsets
        utc = pa.timestamp(table.schema.field(name).type.unit, "UTC")
        table = table.set_column(table.column_names.index(name), name, table[name].cast(utc))
    try:
        frame = pl.from_arrow(table)
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError):
        raise DataError("The Arrow table cannot be read.") from None
    assert isinstance(frame, pl.DataFrame)
    return _plain(
        frame.with_columns(_with_offset(frame[name], tz) for name, tz in offsets.items()), columns
    )


def _with_offset(utc: pl.Series, tz: str) -> pl.Series:
    """Instants as ISO text with the fixed offset `tz`, which a polars column cannot hold."""
    walls = utc.dt.replace_time_zone(None) + timedelta(seconds=offset_seconds(tz))
    return text(walls, tz)


def _plain_arrow(field: pa.Field) -> bool:
    """Whether an Arrow column is on the allow-list; a dictionary counts as its values' type."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    tests = (
        pa.types.is_boolean, pa.types.is_integer, pa.types.is_float32, pa.types.is_float64,
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
        pa.types.is_date32, pa.types.is_timestamp, pa.types.is_null,
    )  # fmt: skip
    marked = b"ARROW:extension:name" in (field.metadata or {})
    return not marked and any(test(kind) for test in tests)


def _pandas(table: pd.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    """A named index that is asked for counts as a column."""
    levels = [name for name in table.index.names if name in columns]
    if levels and not set(levels) & set(table.columns):
        table = table.reset_index()
    _demand(columns, [str(name) for name in table.columns])
    try:
        arrow = pa.Table.from_pandas(table[list(columns)], preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        raise DataError(
            "The pandas frame cannot be read: a column mixes types, or its name occurs twice."
        ) from None
    return _arrow(arrow, columns)


def _plain(frame: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    """The frame with plain types: decimals become floats, categories text."""
    frame = frame.with_columns(
        pl.col(pl.Decimal).cast(pl.Float64), pl.col(pl.Categorical, pl.Enum).cast(pl.String)
    )
    _refuse(dict(frame.schema), columns)
    return frame


def _refuse(schema: Mapping[str, pl.DataType], columns: Mapping[str, str]) -> None:
    refused = [name for name, kind in schema.items() if kind not in PLAIN]
    if refused:
        raise _refused(refused, columns)


def _refused(names: list[str], columns: Mapping[str, str]) -> DataError:
    message = "This type is not read. Store it as numbers, text, dates or booleans."
    faults = [Fault(CODES.get(columns[n], "non_numeric"), message, column=n) for n in names]
    return DataError("A column has a type that is not read.", faults)


def _demand(columns: Mapping[str, str], present: list[str]) -> None:
    absent = [name for name in columns if name not in present]
    if absent:
        shown = ", ".join(present[:20]) + (", ..." if len(present) > 20 else "")
        message = f"There is no such column. The table has: {shown}."
        faults = [Fault("missing_column", message, column=name) for name in absent]
        raise DataError("Columns that the schema names are missing.", faults)
