"""Data frames as the Arrow streams of the HTTP contract, on the side of the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc

from tsformer.errors import DataError

MEDIA = "application/vnd.apache.arrow.stream"
Frame = Any  # of polars or pandas, or a table of Arrow: what goes in comes out


def pack(request: Mapping[str, Any], tables: Mapping[str, Frame]) -> bytes:
    """The body of a request: a stream a table, of which the first carries the `request`."""
    sink = pa.BufferOutputStream()
    for place, (name, frame) in enumerate(tables.items()):
        first = {} if place else {"forecast.request": json.dumps(request)}
        table = arrow_of(frame).replace_schema_metadata({"forecast.table": name, **first})
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, pa.Table]]:
    """The members of an answer, and its tables by name."""
    source, tables = pa.BufferReader(content), dict[str, pa.Table]()
    while source.tell() < source.size():
        table = ipc.open_stream(source).read_all()
        tables[table.schema.metadata[b"forecast.table"].decode()] = table
    return json.loads(tables["forecast"].schema.metadata[b"forecast.response"]), tables


def arrow_of(frame: Frame) -> pa.Table:
    """`frame` as a table of Arrow in the plain types that the service takes."""
    if isinstance(frame, pl.DataFrame):
        return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    if isinstance(frame, pd.DataFrame):
        return pa.Table.from_pandas(frame, preserve_index=False)
    if isinstance(frame, pa.Table):
        return frame
    raise DataError(
        f"A table must be a data frame of polars or pandas or a table of Arrow, got a "
        f"{type(frame).__name__}."
    )


def alike(table: pa.Table, frame: Frame) -> Frame:
    """`table` in the library of `frame`."""
    if isinstance(frame, pl.DataFrame):
        return pl.from_arrow(table)
    return table.to_pandas() if isinstance(frame, pd.DataFrame) else table
