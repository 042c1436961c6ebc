"""Results of jobs, which are kept as JSON, as the Arrow streams that their routes would answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from pipelines.stamps import read_stamps
from serving.arrow_answers import encode, instants, series_table, table_of

IN_COLUMNS = ("forecast", "anomaly")
KINDS = (*IN_COLUMNS, "compare")


def of_file(kind: str, path: Path) -> bytes:
    """The streams of the result in a file, of a job of one of `KINDS`."""
    told = orjson.loads(path.read_bytes())
    if kind in IN_COLUMNS:
        columns, entries = told.pop("forecast"), told.pop("series")
        return encode(_table(columns, told["tz"]), series_table(entries), told)
    return _compared(told)


def _table(columns: Mapping[str, Any], tz: str | None) -> pa.Table:
    """Columns of JSON, of which the second holds stamps."""
    found = {name: pl.Series(name, cells, strict=False) for name, cells in columns.items()}
    time = [*columns][1]
    stamps = read_stamps(found[time], tz=tz)
    found[time] = stamps.values
    return table_of({**found, time: instants(stamps.values, stamps.tz)})


def _compared(told: dict[str, Any]) -> bytes:
    """Forecasts of several models, one below the other."""
    index, actuals, forecasts = told.pop("index"), told.pop("actuals"), told["forecasts"]
    parts, entries, rows = [], {}, len(next(iter(index.values())))
    for one in forecasts:
        truth = {} if actuals is None else {"actual": actuals}
        columns = {**index, "model": [one["reference"]] * rows, **truth}
        parts.append({**columns, **one.pop("columns")})
        entries[one["reference"]] = one.pop("series")
    whole = {name: [cell for part in parts for cell in part[name]] for name in parts[0]}
    table = _table(whole, told.get("tz"))  # which older results do not have
    first = ["model", *(name for name in table.column_names if name != "model")]
    return encode(table.select(first), series_table(entries), told)
