"""The tables of an answer as Arrow IPC streams, of types that readers of any age know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc

from pipelines import times
from pipelines.panel import Panel
from serving.answers import ModelAnswer
from serving.arrow import TABLE_KEY
from serving.members import number_columns
from serving.problems import Item, Problem
from serving.schemas.tables import Columns
from serving.scoring import Floats

RESPONSE_KEY = b"forecast.response"
OLDEST = pl.CompatLevel.oldest()
COMPARED = ("model", "actual")  # columns of a comparison that are none of the client's
Entries = Sequence[Mapping[str, Any]]


def encode(forecast: pa.Table, series: pa.Table, members: Mapping[str, Any]) -> bytes:
    """The two streams of an answer; the schema of the first holds the other `members` as JSON."""
    sink = pa.BufferOutputStream()
    rest = {RESPONSE_KEY: orjson.dumps(members)}
    for name, table, more in ((b"forecast", forecast, rest), (b"series", series, {})):
        table = table.replace_schema_metadata({TABLE_KEY: name, **more})
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def forecast_table(found: ModelAnswer, panel: Panel, columns: Columns) -> pa.Table:
    """A forecast under the client's names."""
    table = found.forecast.table
    own = {columns.id: table["unique_id"], columns.time: instants(table["ds"], panel.tz)}
    return table_of({**own, **{name: table[name] for name in table.columns[2:]}})


def compared_table(
    values: Mapping[str, Floats], actuals: Floats | None, panel: Panel, columns: Columns,
    levels: Sequence[float],
) -> pa.Table:  # fmt: skip
    """Forecasts `[series, horizon, 1 + level]` of several models, one below the other."""
    steps = next(iter(values.values())).shape[1]
    rows = len(panel.ids) * steps
    ids = pl.Series(panel.ids).gather(np.repeat(np.arange(len(panel.ids)), steps))
    stamps = panel.following(steps)
    copies = len(values)
    stacked = np.concatenate([one.reshape(rows, one.shape[-1]) for one in values.values()])
    numbers = {name: _known(stacked[:, i]) for i, name in enumerate(number_columns(levels))}
    truth = {} if actuals is None else {"actual": _known(np.tile(actuals.ravel(), copies))}
    return table_of(
        {
            "model": pl.Series([*values]).gather(np.repeat(np.arange(copies), rows)),
            columns.id: pl.concat([ids] * copies),
            columns.time: instants(pl.concat([stamps] * copies), panel.tz),
            **truth,
            **numbers,
        }
    )


def anomaly_table(
    table: Mapping[str, pl.Series], stamps: pl.Series, panel: Panel, columns: Columns
) -> pa.Table:
    """Judged points under the client's names, with their `stamps`."""
    return table_of({**table, columns.time: instants(stamps, panel.tz)})


def check_compared(columns: Columns) -> None:
    """Raises where the client calls a column as one of the comparison is called."""
    for role in ("id", "time"):
        if getattr(columns, role) in COMPARED:
            message = f"{' and '.join(COMPARED)} are columns of the answer. Name another."
            raise Problem("invalid-request", message, [Item(message, f"/columns/{role}")])


def series_table(entries: Mapping[str, Entries] | Entries) -> pa.Table:
    """Entries of `series` as a flat table, by model where there are several.

    The errors of an invalid series are JSON.
    """
    several = isinstance(entries, Mapping)
    groups = entries if isinstance(entries, Mapping) else {"": entries}
    flat = [entry for group in groups.values() for entry in group]
    models = [name for name, group in groups.items() for _ in group]
    fallbacks = [entry["fallback"] or {} for entry in flat]
    errors = [entry.get("errors") for entry in flat]
    counts = ("rows", "blocks", "rows_used", "padded")
    return table_of(
        ({"model": _texts(models)} if several else {})
        | {
            "unique_id": pl.Series([entry["unique_id"] for entry in flat]),
            **{name: _texts(entry[name] for entry in flat) for name in ("status", "method")},
            **{name: pl.Series([entry[name] for entry in flat], dtype=pl.Int64) for name in counts},
            "context_end": pl.Series([entry["context_end"] for entry in flat]),
            "fallback_model": _texts(fallback.get("model") for fallback in fallbacks),
            "fallback_reason": _texts(fallback.get("reason") for fallback in fallbacks),
            "errors": _texts(orjson.dumps(found).decode() if found else None for found in errors),
        }
    )


def table_of(columns: Mapping[str, pl.Series | pa.Array]) -> pa.Table:
    arrays = [
        cells.to_arrow(compat_level=OLDEST) if isinstance(cells, pl.Series) else cells
        for cells in columns.values()
    ]
    return pa.table(arrays, names=[*columns])


def instants(stamps: pl.Series, tz: str | None) -> pl.Series | pa.Array:
    """Stamps of a panel; at a fixed offset those of polars are naive there."""
    if tz is None or not times.is_offset(tz):
        return stamps
    utc = stamps - timedelta(seconds=times.offset_seconds(tz))
    return utc.to_arrow(compat_level=OLDEST).cast(pa.timestamp("us", tz))


def _known(values: Floats) -> pl.Series:
    return pl.Series(values).fill_nan(None)


def _texts(cells: Iterable[str | None]) -> pl.Series:
    return pl.Series([*cells], dtype=pl.String)
