"""The attributes of the series of a request: one row each in the table `static`."""

from __future__ import annotations

from collections import Counter

import polars as pl

from pipelines.covariates import Inputs
from pipelines.panel import LONE_ID
from serving.body import pointer_to
from serving.cells import covariate_cells, kinds_of, lengths, misfits
from serving.problems import Item
from serving.schemas import Series
from tsformer.errors import Fault

TABLE = "static"
CODE = "static_conflict"  # of a series with several rows; none is `covariate_missing` without a row


def check(asked: Series, inputs: Inputs) -> list[Item]:
    """What makes the table `static` unreadable: columns that are not there, cells of other kinds."""
    columns, static = asked.columns, asked.static
    absent = [column.name for column in inputs.static if column.name not in static]
    items = []
    if absent:
        names = ", ".join(absent)
        message = f"The model needs {names} of every series, in the table '{TABLE}'."
        items.append(Item(message, f"/{TABLE}" if static else "", "covariate_missing"))
    items += lengths(static, TABLE)
    if inputs.static:
        items += _ids(asked)
    message = "Not a number. Give numbers, or null where it is missing."
    for column in inputs.static:
        if column.name != columns.id:
            items += misfits(
                static, column.name, kinds_of(column), "non_numeric", message, table=TABLE
            )
    return items


def _ids(asked: Series) -> list[Item]:
    """The first id of `static` that cannot be one of those in `data`."""
    name = asked.columns.id
    cells, ids = asked.static.get(name, ()), asked.data.get(name, ())
    bad = misfits(
        asked.static, name, (str, int), "id_invalid", "Ids are text or integers.", table=TABLE
    )
    if bad or not cells:
        return bad
    if None in cells:
        place = pointer_to(TABLE, name, cells.index(None))
        return [Item("A row without an id. Give one, or drop it.", place, "id_invalid")]
    kinds = {type(cell) for cell in ids if cell is not None}
    if kinds and type(cells[0]) not in kinds:
        return [Item("Give ids as those of data are.", pointer_to(TABLE, name), "id_invalid")]
    return []


def read(asked: Series, inputs: Inputs) -> tuple[dict[str, pl.Series], list[Fault]]:
    """The static columns that models want, in every row of `data`, and what is wrong with them.

    A series of `data` has a fault, and its first row or nulls, without its one row in `static`.
    """
    if not inputs.static:
        return {}, []
    columns, static = asked.columns, asked.static
    ids = asked.data.get(columns.id) or [LONE_ID] * len(asked.data[columns.time])
    known = static.get(columns.id) or [LONE_ID] * len(next(iter(static.values()), ()))
    times = Counter(known)
    message = "One row in static is needed for this series."
    faults = [
        Fault("covariate_missing" if name not in times else CODE, message, name)
        for name in dict.fromkeys(ids)
        if isinstance(name, str | int) and times[name] != 1
    ]
    place = {name: row for row, name in reversed([*enumerate(known)])}
    rows = pl.Series([place.get(name) for name in ids], dtype=pl.Int64)
    cells = {column.name: covariate_cells(column, static[column.name]) for column in inputs.static}
    return {name: values.gather(rows) for name, values in cells.items()}, faults
