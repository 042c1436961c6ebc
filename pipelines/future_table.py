"""The table of the future: what a client knows of the steps after its data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipelines.covariates import Covariate
from pipelines.panel import Panel
from pipelines.stamps import read_stamps
from tsformer.errors import DataError, Fault


def future_cells(
    panel: Panel,
    known: Sequence[Covariate],
    wanted: int,
    horizon: int,
    following: pl.Series,
    future: pl.DataFrame | None,
) -> dict[str, pl.Series]:
    """The cells of each known column over the `wanted` steps, series after series.

    `following` are the stamps of `horizon` steps. Raises DataError where a step has no row, two
    rows, or a row without a value.
    """
    if not known:
        return {}
    names = [column.name for column in known]
    if future is None:
        raise _missing(
            f"The model needs {', '.join(names)} over the horizon; no future table came."
        )
    schema = panel.schema
    on = {"id": schema.id} if schema.id else {}
    on |= {"time": schema.time}
    absent = [name for name in (*on.values(), *names) if name not in future.columns]
    if absent:
        raise _missing(f"The future table lacks the column {', '.join(absent)}.")
    ids = pl.Series(panel.ids)
    places = np.repeat(np.arange(len(ids)), horizon)
    grid = pl.DataFrame({"id": ids.gather(places), "time": following}).filter(
        pl.Series(np.tile(np.arange(horizon) < wanted, len(ids)))
    )
    own = {"time": read_stamps(future[schema.time], tz=panel.tz).values.cast(following.dtype)}
    if schema.id:
        own["id"] = _ids(future[schema.id], ids.dtype)
    rows = pl.DataFrame(own).with_row_index("row")
    joined = grid.join(rows, on=[*on], how="left", maintain_order="left_right")
    cells = {name: future[name].gather(joined["row"]) for name in names}
    faults = _faults(joined, cells)
    if faults:
        raise DataError("The future table does not have each step once, with values.", faults)
    return cells


def _ids(ids: pl.Series, kind: pl.DataType) -> pl.Series:
    """The ids of a future table in the type of those of the data; DataError if they have none."""
    if ids.dtype in (pl.Categorical, pl.Enum):
        ids = ids.cast(pl.String)
    if ids.dtype.is_integer() and kind.is_integer():
        ids = ids.cast(kind)
    if ids.dtype != kind:
        message = f"Its ids are {ids.dtype}, those of the data {kind}. Give both in one type."
        raise DataError(
            "The future table cannot be used.", [Fault("id_invalid", message, column=ids.name)]
        )
    return ids


def _faults(joined: pl.DataFrame, cells: dict[str, pl.Series]) -> list[Fault]:
    """Steps (`id`, `time`) without a `row` of the future table, with two, or without a value."""
    faults = [
        Fault("future_missing", f"No row for {time}.", series=name)
        for name, time in joined.filter(pl.col("row").is_null()).select("id", "time").iter_rows()
    ]
    twice = joined.filter(~pl.struct("id", "time").is_first_distinct())
    for name, time, row in twice.select("id", "time", "row").iter_rows():
        message = f"Another row for {time}. Leave one out."
        faults.append(Fault("future_extra", message, series=name, row=row))
    for column, values in cells.items():
        empty = values.is_null() | (values.is_nan() if values.dtype.is_float() else False)
        holes = joined.filter(empty & joined["row"].is_not_null())
        for name, time, row in holes.select("id", "time", "row").iter_rows():
            message = f"No value for {time}. Give one."
            faults.append(Fault("covariate_missing", message, series=name, column=column, row=row))
    return faults


def _missing(message: str) -> DataError:
    return DataError(message, [Fault("future_missing", message)])
