"""Forecasts that were given out, kept so that what really happened can be held against them.

The command line and the service record through the same function. One row a forecast of a series:
its steps are packed, since a day of ten thousand series would else be a million rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import postgresql, sqlite

from pipelines.forecast import Forecast
from pipelines.keys import TENANT, TENANT_MARK
from pipelines.panel import Panel
from pipelines.profile import Profile
from pipelines.store import Store, now_ms
from pipelines.store_tables import FORECAST_RECORD
from pipelines.times import utc
from pipelines.versions import ModelVersion
from tsformer.metrics import seasonal_scale

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

STAMPS, NUMBERS = np.dtype("<i8"), np.dtype("<f8")  # as they are packed
ROWS_A_TRANSACTION = 2_000  # so that no other writer waits long


def name_for(model: str, tenant: str) -> str:
    """Under which name forecasts and actuals of a model stand; those of tenants stand apart."""
    return model if tenant == TENANT else f"{tenant}{TENANT_MARK}{model}"


def kind_of(times: pl.Series, tz: str | None) -> str:
    """What stamps are: `steps`, `naive`, or `instants` of a zone or offset. One number each means
    something else as another kind, so that they never match."""
    if times.dtype.is_integer():
        return "steps"
    return "naive" if tz is None else "instants"


def scales_of(panel: Panel, *, profile: Profile | None, season: int) -> dict[str, float]:
    """What MASE divides by, by series: as in training where it was seen there, else by its history.

    A series of which that is not known is left out.
    """
    places = {} if profile is None else profile.places
    found = {}
    for number, name in enumerate(map(str, panel.ids)):
        if profile is not None and name in places:
            scale = profile.seasonal_error[places[name]]
        else:
            rows = slice(panel.offsets[number], panel.offsets[number + 1])
            (scale,) = seasonal_scale(panel.target[rows, None], season, power=1)
        if np.isfinite(scale):
            found[name] = float(scale)
    return found


def record(
    store: Store,
    version: ModelVersion,
    panel: Panel,
    forecast: Forecast,
    *,
    scales: Mapping[str, float],
) -> int:
    """Records the `forecast` of `panel` with all its quantiles; gives the number of series.

    `scales` are what MASE divides by. The same may be recorded again: a forecast takes the place
    of one of the same version from the same cutoff.
    """
    rows = _rows(version, panel, forecast, scales)
    for start in range(0, len(rows), ROWS_A_TRANSACTION):
        with store.begin() as connection:
            now = now_ms(connection)
            part = [{**row, "recorded_ms": now} for row in rows[start : start + ROWS_A_TRANSACTION]]
            connection.execute(upsert(connection, FORECAST_RECORD), part)
    return len(rows)


def _rows(
    version: ModelVersion, panel: Panel, forecast: Forecast, scales: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A row for each series that has a forecast."""
    table = forecast.table
    names = [name for name in table.columns if name not in ("unique_id", "ds", "mean")]
    levels = json.dumps([float(name.removeprefix("q")) for name in names])
    packed = {
        "ds": utc(table["ds"], panel.tz).astype(STAMPS),
        "point": table["mean"].to_numpy().astype(NUMBERS),
        "quantiles": table.select(names).to_numpy(order="c").astype(NUMBERS),
    }
    ends = utc(panel.table["time"], panel.tz)[panel.offsets[1:] - 1]
    cutoffs = dict(zip(panel.ids, ends, strict=True))
    kind, rows, start = kind_of(table["ds"], panel.tz), [], 0
    for entry in forecast.series:
        if not entry.rows:
            continue
        steps = slice(start, start + entry.rows)
        start += entry.rows
        name = str(entry.unique_id)
        rows.append(
            {
                "model": version.name,
                "version": version.version,
                "unique_id": name,
                "cutoff_us": int(cutoffs[entry.unique_id]),
                "first_us": int(packed["ds"][steps][0]),
                "last_us": int(packed["ds"][steps][-1]),
                **{key: values[steps].tobytes() for key, values in packed.items()},
                "levels": levels,
                "scale": scales.get(name),
                "fallback": entry.fallback["model"] if entry.fallback else None,
                "kind": kind,
            }
        )
    return rows


def upsert(connection: sa.Connection, table: sa.Table) -> sa.Insert:
    """An insert that takes the place of a row with the same key."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert: Any = dialect.insert(table)
    keys = {column.name for column in table.primary_key}
    values = {c.name: insert.excluded[c.name] for c in table.columns if c.name not in keys}
    made: sa.Insert = insert.on_conflict_do_update(index_elements=[*keys], set_=values)
    return made


# --- reading back ---------------------------------------------------------------------------------


def stamps(packed: bytes) -> Rows:
    """The stamps of a recorded forecast."""
    return np.frombuffer(packed, STAMPS)


def numbers(packed: bytes) -> Floats:
    """The point forecasts, or all quantiles step after step, of a recorded forecast."""
    return np.frombuffer(packed, NUMBERS)


def steps_of(rows: Sequence[Any]) -> pl.DataFrame:
    """The steps of recorded forecasts (`ds`, `unique_id` and `kind` at least), `row` naming the
    forecast."""
    packed = [stamps(row.ds) for row in rows]
    lengths = [len(part) for part in packed]
    row = np.repeat(np.arange(len(rows)), lengths)
    texts = [
        pl.Series(name, [getattr(row, name) for row in rows], dtype=pl.String).gather(row)
        for name in ("unique_id", "kind")
    ]
    stamps_us = np.concatenate([np.empty(0, STAMPS), *packed]).astype(np.int64)
    return pl.DataFrame({"row": row, "ds_us": stamps_us}).with_columns(texts)


def matched(steps: pl.DataFrame, actuals: pl.DataFrame) -> pl.DataFrame:
    """The `steps` that an actual speaks of, with its `y`; what is of no known kind is of any."""
    joined = steps.join(actuals, on=["unique_id", "ds_us"], maintain_order="left")
    return joined.filter((pl.col("kind") == pl.col("kind_right")).fill_null(True))
