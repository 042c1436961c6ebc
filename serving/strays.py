"""Cells of another kind than their column, which under `skip` cost their own series alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipelines.covariates import Covariate, Inputs
from pipelines.findings import Report, counted
from pipelines.schema import LONE_ID
from serving.cells import NO_NUMBER, forms, kinds_of
from serving.problems import Item, of_faults
from serving.schemas.series import Options, Series
from serving.schemas.tables import Cells, Columns, read_cells
from tsformer.errors import Fault

OF_SERIES = ("non_numeric", "static_conflict")
NUMBERS = (int, float)
UNUSABLE = "The table cannot be used as sent."
Kinds = tuple[type, ...]


@dataclass(frozen=True, slots=True)
class Stray(Fault):
    """A fault of one series in a `table` that its code does not name."""

    table: str = "data"


def refuse(items: Sequence[Item], options: Options) -> None:
    """Raises `items`, unless each is of a series that is to be skipped."""
    if items and (options.on_invalid == "fail" or {i.code for i in items} - {*OF_SERIES}):
        raise of_faults(UNUSABLE, items)


def without(asked: Series, items: Sequence[Item], inputs: Inputs) -> tuple[Series, list[Fault]]:
    """`asked` with numbers where data and static must have some, and a fault for each series.

    Raises `items` for a whole column of another type.
    """
    columns = asked.columns
    kinds = {columns.target: NUMBERS, **kinds_in(inputs.columns)}
    data, faults = numbers_in(asked.data, "data", columns, kinds, items)
    static, more = numbers_in(asked.static, "static", columns, kinds_in(inputs.static), items)
    return asked.model_copy(update={"data": data, "static": static}), faults + more


def numbers_in(
    cells: Mapping[str, Cells], table: str, columns: Columns, kinds: Mapping[str, Kinds],
    items: Sequence[Item],
) -> tuple[dict[str, Cells], list[Fault]]:  # fmt: skip
    """A table with cells of the `kinds` that its columns must have; see `without`."""
    fitting, faults = {**cells}, list[Fault]()
    for name in filter(cells.__contains__, kinds):
        found = rows_of(cells[name], kinds[name])
        if found and isinstance(cells[name], pl.Series):
            raise of_faults(UNUSABLE, items)
        if found:
            fitting[name] = replaced(cells[name], found)
            faults += faults_of(found, cells.get(columns.id), table, name)
    return fitting, faults


def kinds_in(columns: Sequence[Covariate]) -> dict[str, Kinds]:
    """The kinds of cells that each of some covariates may have."""
    return {column.name: kinds_of(column) for column in columns}


def rows_of(cells: Cells, kinds: Kinds) -> list[int]:
    """The rows with cells of none of `kinds`."""
    if forms(cells) <= {*kinds}:
        return []
    return [i for i, cell in enumerate(cells) if cell is not None and type(cell) not in kinds]


def replaced(cells: Cells, rows: Sequence[int]) -> list[Any]:
    """The column with some number in `rows`: their series are left out and lack nothing else."""
    column = list[Any](cells)
    for row in rows:
        column[row] = row
    return read_cells(column)


def faults_of(
    rows: Sequence[int], ids: Cells | None, table: str, column: str,
    code: str = "non_numeric", message: str = NO_NUMBER,
) -> list[Fault]:  # fmt: skip
    """One fault for each series that has some of `rows`, at the first of them."""
    places = dict[str | int | None, list[int]]()
    for row in rows:
        name: Any = LONE_ID if ids is None else ids[row]
        places.setdefault(name, []).append(row)
    return [
        Stray(code, f"{message} {counted(len(at), 'row')} in this series.", series, column, at[0],
              len(at), table)
        for series, at in places.items()
    ]  # fmt: skip


def of_series(faults: Sequence[Fault], report: Report) -> list[Fault]:
    """Those of `faults` that are of a series; rows without a good id are told of as such."""
    known = {entry.id for entry in report.series}
    return [fault for fault in faults if fault.series in known]
