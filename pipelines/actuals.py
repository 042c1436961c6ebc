"""What really happened, as it arrives later: kept by series and time, matched with forecasts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sa

from pipelines import times as clock
from pipelines.axis import Axis, check_ids, null_ids, number_ids, read_axis
from pipelines.data_section import schema_of
from pipelines.findings import Findings
from pipelines.frequency import Frequency
from pipelines.keys import TENANT_MARK
from pipelines.recording import kind_of, matched, steps_of, upsert
from pipelines.schema import LONE_ID
from pipelines.sections import Data
from pipelines.store import Store, now_ms
from pipelines.store_tables import ACTUAL, FORECAST_RECORD
from pipelines.tables import read_table
from pipelines.values import Column, numbers
from tsformer.errors import ConfigError, DataError, Fault

# How stamps must be to be of the kind of the forecasts.
AS_FORECAST = {
    "instants": "have a time zone: give tz, or stamps with offsets.",
    "naive": "have no time zone: give stamps without offsets, and no tz.",
    "steps": "count steps: give the numbers of the steps.",
}
SCHEMA: Mapping[str, pl.DataType] = {
    "unique_id": pl.String(), "ds_us": pl.Int64(), "y": pl.Float64(), "kind": pl.String(),
}  # fmt: skip
KEPT = [ACTUAL.c[name] for name in SCHEMA]
ROWS_A_TRANSACTION = 5_000  # so that no other writer waits long


@dataclass(frozen=True, slots=True)
class Received:
    """What became of actuals; `matched` are those that some recorded forecast speaks of."""

    received: int = 0
    inserted: int = 0
    replaced: int = 0
    unchanged: int = 0
    matched: int = 0

    def __add__(self, other: Received) -> Received:
        return Received(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def read_actuals(table: pl.DataFrame, data: Data, *, frequency: Frequency, tz: str) -> pl.DataFrame:
    """The values of `table` as `unique_id`, `ds_us`, `y`, the `kind` of their stamps and the `row`
    that each stands in; rows without a value are left out.

    Columns mean what `data` says; naive stamps are wall clock time in `tz`, the zone of the model.
    Rows need not make a grid. Raises DataError with every fault.
    """
    if data.freq.isdigit() and not table[data.time].dtype.is_integer():
        raise ConfigError(
            "The model counts rows, so a stamp does not say which step it is. Give actuals with "
            f"the numbers of the steps in '{data.time}', counted from 0 at the start of a series."
        )
    long, id, target = _long(table, data)
    numbered = number_ids(long[id])
    found, rows = Findings(numbered.ids), np.arange(len(long))
    check_ids(numbered, found)
    axis = read_axis(
        long[data.time], series=numbered.series, rows=rows, tz=data.tz or tz or None, found=found
    )
    _check_kind(axis, frequency, tz)
    column = Column(target, long[target], numbered.series, rows)
    return _values(column, axis, found, nulls=null_ids(numbered.series, id))


def read_values(table: pl.DataFrame, *, id: str, time: str, tz: str | None) -> pl.DataFrame:
    """As `read_actuals`, of a table with one more column, its values, whatever model they are of."""
    numbered = number_ids(table[id])
    found, rows = Findings(numbered.ids), np.arange(len(table))
    check_ids(numbered, found)
    axis = read_axis(table[time], series=numbered.series, rows=rows, tz=tz, found=found)
    target = next(name for name in table.columns if name not in (id, time))
    column = Column(target, table[target], numbered.series, rows)
    return _values(column, axis, found, nulls=null_ids(numbered.series, id))


def _values(
    column: Column, axis: Axis, found: Findings, *, nulls: tuple[Fault, ...]
) -> pl.DataFrame:
    y = numbers(column, found=found)
    _check_twice(axis, found)
    faults = found.report(column.rows[:0], nulls, ()).faults
    faults += tuple(fault for of_series in found.faults.values() for fault in of_series)
    if faults:
        raise DataError("The actuals cannot be used.", faults)
    ids = pl.Series("unique_id", [str(name) for name in found.ids], dtype=pl.String)
    stamps = pl.Series("ds_us", clock.utc(axis.times, axis.tz))
    columns = [ids.gather(axis.series), stamps, y.gather(axis.rows).alias("y")]
    kind = pl.lit(kind_of(axis.times, axis.tz)).alias("kind")
    return pl.DataFrame(columns).with_columns(kind, row=axis.rows).drop_nulls("y")


def _long(table: pl.DataFrame, data: Data) -> tuple[pl.DataFrame, str, str]:
    """A row a value; each target of a wide table is a series. With the names of id and value."""
    schema = schema_of(data, table.columns)
    roles = {name: role for name, role in schema.roles.items() if role in ("id", "time", "target")}
    frame = read_table(table, columns=roles)
    if schema.wide:
        return (
            frame.unpivot(index=data.time, variable_name="unique_id", value_name="y"),
            "unique_id",
            "y",
        )
    if schema.id is None:
        return frame.with_columns(unique_id=pl.lit(LONE_ID)), "unique_id", schema.targets[0]
    return frame, schema.id, schema.targets[0]


def _check_kind(axis: Axis, frequency: Frequency, tz: str) -> None:
    """Stamps of another kind or zone than the forecasts' would match none, or the wrong ones."""
    if axis.times.dtype.is_integer() != frequency.is_integer:
        kinds = ("step numbers", "dates and times")
        have, want = kinds if axis.times.dtype.is_integer() else kinds[::-1]
        message = f"The time column holds {have}, the model's {want}."
        raise DataError(message, [Fault("timestamp_invalid", message)])
    if (axis.tz or "") != tz:
        message = (
            f"The stamps are of {axis.tz or 'no time zone'}, those of the model of "
            f"{tz or 'no time zone'}. Give them as the model's."
        )
        raise DataError(message, [Fault("timestamp_invalid", message)])


def _check_twice(axis: Axis, found: Findings) -> None:
    """Of two values for one time nobody can say which is true."""
    stamps = clock.elapsed(axis.times)
    for position in np.flatnonzero(axis.same & (stamps[1:] == stamps[:-1])):
        earlier, row = sorted(axis.rows[position : position + 2].tolist())
        message = f"Same time stamp as row {earlier}."
        found.fault(int(axis.series[position]), "duplicate_timestamp", message, row=row)


# --- the store ------------------------------------------------------------------------------------


def add(store: Store, model: str, actuals: pl.DataFrame, *, time: str | None = None) -> Received:
    """Keeps actuals as they were read; what is counted in the answer is durable.

    `model` is that of `recording.name_for`, or what `everywhere` gives for actuals of any model. A
    later value for the same series and time takes the place of the earlier one. Raises DataError,
    and keeps nothing, where a series is forecast at stamps of another kind; `time` is the column
    that it names.
    """
    _check_forecast(store, model, actuals, time)
    total, ordered = Received(), actuals.sort("unique_id", "ds_us")
    for part in ordered.iter_slices(ROWS_A_TRANSACTION):
        total += _add(store, model, part)
    return total


def _check_forecast(store: Store, model: str, actuals: pl.DataFrame, time: str | None) -> None:
    """Wall times that are taken for instants match the wrong hours, and nobody is told."""
    columns, ids = FORECAST_RECORD.c, actuals["unique_id"].unique().to_list()
    query = sa.select(columns.unique_id, columns.kind).distinct()
    query = query.where(_by(columns.model, model), columns.unique_id.in_(ids))
    with store.read() as connection:
        found = connection.execute(query.where(columns.kind.is_not(None)))
        known = _frame(found, ("unique_id", "kind"))
    met = actuals.join(known, on=["unique_id", "kind"], how="semi")
    others = known.join(met, on="unique_id", how="anti").unique("unique_id", keep="any")
    first = actuals.unique("unique_id", keep="first").sort("row")
    wrong = first.join(others, on="unique_id", maintain_order="left")
    faults = [
        Fault("timestamp_invalid", f"Forecasts of this series {AS_FORECAST[kind]}", None, time, row)
        for row, kind in wrong.select("row", "kind_right").iter_rows()
    ]
    if faults:
        raise DataError("The actuals cannot be matched.", faults)


def _add(store: Store, model: str, part: pl.DataFrame) -> Received:
    with store.begin() as connection:
        ids = part["unique_id"].unique().to_list()
        here = (ACTUAL.c.model == model) & ACTUAL.c.unique_id.in_(ids)
        here &= ACTUAL.c.ds_us.between(*_span(part))
        before = _frame(connection.execute(sa.select(*KEPT).where(here)))
        joined = part.join(before, on=["unique_id", "ds_us"], how="left", maintain_order="left")
        new = joined.filter(pl.col("y_right").is_null())
        is_other = pl.col("y_right") != pl.col("y")
        other = joined.filter(is_other | (pl.col("kind_right") != pl.col("kind")))
        written = pl.concat([new, other]).select(*SCHEMA)
        if len(written):
            now = now_ms(connection)
            rows = [{**row, "model": model, "received_ms": now} for row in written.to_dicts()]
            connection.execute(upsert(connection, ACTUAL), rows)
        matched = _matched(connection, model, part)
    return Received(
        received=len(part),
        inserted=len(new),
        replaced=len(other),
        unchanged=len(part) - len(new) - len(other),
        matched=matched,
    )


def _matched(connection: sa.Connection, model: str, part: pl.DataFrame) -> int:
    first, last = _span(part)
    columns = FORECAST_RECORD.c
    here = _by(columns.model, model) & columns.unique_id.in_(part["unique_id"].unique().to_list())
    here &= (columns.last_us >= first) & (columns.first_us <= last)
    query = sa.select(columns.unique_id, columns.ds, columns.kind).where(here)
    found = matched(steps_of(connection.execute(query).all()), part)
    return len(found.unique(["unique_id", "ds_us"]))


def everywhere(model: str) -> str:
    """Under which name actuals stand that are of all models of the tenant of `model`."""
    return model[: model.rfind(TENANT_MARK) + 1]


def recorded_models(store: Store, name: str, actuals: pl.DataFrame) -> list[str]:
    """The models of the tenant of `name` that have recorded a forecast of one of the series."""
    column, ids = FORECAST_RECORD.c.model, actuals["unique_id"].unique().to_list()
    query = sa.select(column).where(_within(column, name), FORECAST_RECORD.c.unique_id.in_(ids))
    with store.read() as connection:
        return sorted(connection.execute(query.distinct()).scalars())


def _by(column: sa.ColumnElement[str], model: str) -> sa.ColumnElement[bool]:
    """Forecasts that actuals under the name `model` speak of."""
    return _within(column, model) if model == everywhere(model) else column == model


def _within(column: sa.ColumnElement[str], name: str) -> sa.ColumnElement[bool]:
    """Models of the same tenant."""
    tenant = everywhere(name)
    if tenant:
        return column.startswith(tenant, autoescape=True)
    return ~column.contains(TENANT_MARK)


def _of(model: str) -> sa.ColumnElement[bool]:
    """The actuals of `model`, and those of any model about series that it has forecast."""
    forecast = sa.select(FORECAST_RECORD.c.unique_id).where(FORECAST_RECORD.c.model == model)
    shared = (ACTUAL.c.model == everywhere(model)) & ACTUAL.c.unique_id.in_(forecast)
    return (ACTUAL.c.model == model) | shared


def happened(connection: sa.Connection, model: str, where: sa.ColumnElement[bool]) -> pl.DataFrame:
    """What is known of `model`, as in SCHEMA; its own actuals before those of any."""
    query = sa.select(*KEPT).where(_of(model), where).order_by(ACTUAL.c.model.desc())
    table = _frame(connection.execute(query))
    return table.unique(["unique_id", "ds_us"], keep="first", maintain_order=True)


def _frame(found: sa.CursorResult[Any], columns: Iterable[str] = SCHEMA) -> pl.DataFrame:
    schema = {name: SCHEMA[name] for name in columns}
    return pl.DataFrame([tuple(row) for row in found], schema=schema, orient="row")


def _span(part: pl.DataFrame) -> tuple[int, int]:
    stamps = part["ds_us"].to_numpy()
    return int(stamps.min()), int(stamps.max())


def since(store: Store, model: str, *, after_us: int) -> pl.DataFrame:
    """The actuals of `model` after a stamp."""
    with store.read() as connection:
        return happened(connection, model, ACTUAL.c.ds_us > after_us)


def newest(store: Store, model: str) -> int | None:
    """The newest stamp of the actuals of `model`; None without any."""
    with store.read() as connection:
        found = connection.execute(
            sa.select(sa.func.max(ACTUAL.c.ds_us)).where(_of(model))
        ).scalar_one()
    return None if found is None else int(found)
