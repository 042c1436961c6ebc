"""The attributes of the series of a request: one row each in the table `static`."""

from __future__ import annotations

import polars as pl

from pipelines.covariates import Inputs
from pipelines.schema import LONE_ID
from serving.body import pointer_to
from serving.cells import NO_NUMBER, column_of, covariate_cells, forms, kinds_of, lengths, misfits
from serving.problems import Item
from serving.schemas.series import Series
from tsformer.errors import Fault

TABLE = "static"
GROUP_ID = "group_id"  # the reserved column that joins series into groups
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
    if inputs.static or GROUP_ID in static:
        items += _ids(asked)
    items += _groups(asked)
    for column in inputs.static:
        if column.name != columns.id:
            items += misfits(
                static, column.name, kinds_of(column), "non_numeric", NO_NUMBER, table=TABLE
            )
    return items


def _groups(asked: Series) -> list[Item]:
    """Names of groups that are none, and a series that is in two."""
    static, name = asked.static, asked.columns.id
    if GROUP_ID not in static:
        return []
    said = "Names of groups are text or integers."
    items = misfits(static, GROUP_ID, (str, int), "id_invalid", said, table=TABLE)
    seen = set[object]()
    for row, cell in enumerate(() if items else static.get(name, ())):
        if cell in seen:
            return [Item("Another row for this series.", pointer_to(TABLE, name, row), CODE)]
        seen.add(cell)
    return items


def _ids(asked: Series) -> list[Item]:
    """The first id of `static` that cannot be one of those in `data`."""
    name = asked.columns.id
    cells, ids = asked.static.get(name, ()), asked.data.get(name, ())
    bad = misfits(
        asked.static, name, (str, int), "id_invalid", "Ids are text or integers.", table=TABLE
    )
    if bad or not len(cells):
        return bad
    own = column_of(name, cells)
    if own.null_count():
        place = pointer_to(TABLE, name, own.is_null().arg_max() or 0)
        return [Item("A row without an id. Give one, or drop it.", place, "id_invalid")]
    if forms(ids) and not forms(ids) & forms(cells):
        return [Item("Give ids as those of data are.", pointer_to(TABLE, name), "id_invalid")]
    return []


def read(asked: Series, inputs: Inputs) -> tuple[dict[str, pl.Series], list[Fault]]:
    """The static columns that models want, in every row of `data`, and what is wrong with them.

    A series of `data` has a fault, and its first row or nulls, without its one row in `static`.
    Of groups alone, it may have none.
    """
    if not inputs.static and GROUP_ID not in asked.static:
        return {}, []
    columns, static = asked.columns, asked.static
    lone = [LONE_ID] * len(asked.data[columns.time])
    ids = column_of("id", asked.data.get(columns.id, lone))
    one = [LONE_ID] * len(next(iter(static.values()), ()))
    known = column_of("id", static.get(columns.id, one))
    ids = ids.cast(known.dtype) if ids.dtype == pl.Null else ids
    known = known.cast(ids.dtype)
    rows = pl.DataFrame({"id": known}).with_row_index("row")
    found = rows.group_by("id").agg(pl.first("row"), pl.len().alias("rows"))
    names = pl.DataFrame({"id": ids.unique(maintain_order=True).drop_nulls()})
    counted = names.join(found, on="id", how="left", maintain_order="left").fill_null(0)
    message = "One row in static is needed for this series."
    faults = [
        Fault(CODE if count else "covariate_missing", message, name)
        for name, count in counted.filter(pl.col("rows") != 1).select("id", "rows").iter_rows()
        if count or inputs.static
    ]
    place = pl.DataFrame({"id": ids}).join(found, on="id", how="left", maintain_order="left")["row"]
    cells = {column.name: covariate_cells(column, static[column.name]) for column in inputs.static}
    return {name: values.gather(place) for name, values in cells.items()}, faults
