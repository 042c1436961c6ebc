"""Columns of a request as they came: their kinds, their lengths, their cells."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import polars as pl

from pipelines.covariates import Covariate
from pipelines.features.categories import as_words
from serving.body import pointer_to
from serving.problems import Item
from serving.schemas.tables import MOST, Cells

NO_NUMBER = "Not a number. Give numbers, without quotes, or null where it is missing."
STAMPS = (str, int, date)  # dates of Arrow; in JSON they are text


def lengths(table: Mapping[str, Cells], name: str) -> list[Item]:
    """The columns of a table that are not as long as its first."""
    rows = len(next(iter(table.values()), ()))
    return [
        Item(f"{len(cells)} cells; the first column has {rows}.", pointer_to(name, column),
             "length_mismatch")
        for column, cells in table.items()
        if len(cells) != rows
    ]  # fmt: skip


def misfits(
    data: Mapping[str, Cells], name: str, kinds: tuple[type, ...], code: str, message: str,
    *, table: str = "data",
) -> list[Item]:  # fmt: skip
    """The first cell of a column that is of none of `kinds`, or of another than the first."""
    cells = data.get(name, ())
    found = forms(cells)
    if found <= set(kinds) and (len(found) < 2 or float in kinds):
        return []
    if isinstance(cells, pl.Series):  # all of one form
        row = cells.is_not_null().arg_max() or 0
        return [Item(message, pointer_to(table, name, row), code)]
    first = next(type(cell) for cell in cells if cell is not None)
    fitting = set(kinds) if float in kinds else {first} & set(kinds)
    row = next(i for i, cell in enumerate(cells) if cell is not None and type(cell) not in fitting)
    return [Item(message, pointer_to(table, name, row), code)]


def beyond(data: Mapping[str, Cells], name: str, code: str, message: str) -> list[Item]:
    """The first number beyond the integers of 64 bits; a larger one became a float as it was read."""
    cells = data.get(name, ())
    if float not in forms(cells):
        return []
    places = (i for i, cell in enumerate(cells) if type(cell) is float and abs(cell) > MOST)
    row = next(places, None)
    return [] if row is None else [Item(message, pointer_to("data", name, row), code)]


def forms(cells: Cells) -> set[type]:
    """The types of the cells that are there; every kind of stamp is a date."""
    if not isinstance(cells, pl.Series):
        return set(map(type, cells)) - {type(None)}
    if cells.null_count() == len(cells):
        return set()
    return {date} if cells.dtype.is_temporal() else {cells.dtype.to_python()}


def distinct(cells: Cells) -> int:
    """How many different cells there are."""
    return cells.n_unique() if isinstance(cells, pl.Series) else len(set(cells))


def kinds_of(column: Covariate) -> tuple[type, ...]:
    """The kinds of cells that a covariate may have; the names of a category may be numbers."""
    return (str, int, float, bool) if column.size else (int, float, bool)


def covariate_cells(column: Covariate, cells: Cells) -> pl.Series:
    """The cells of a covariate: numbers, or text where it is a category."""
    values = column_of(column.name, cells)
    return values if column.size else values.cast(pl.Float64)


def column_of(name: str, cells: Cells) -> pl.Series:
    """A column of the request as it is; a mixed one, which only covariates can be, as text."""
    if isinstance(cells, pl.Series):
        return cells.alias(name)
    try:
        return pl.Series(name, cells)
    except (TypeError, pl.exceptions.PolarsError):
        words: dict[object, str | None] = {None: None}
        for kind in (bool, int, float):
            found = [*{cell for cell in cells if type(cell) is kind}]
            words |= zip(found, as_words(pl.Series(found)), strict=True)
        mixed = [cell if isinstance(cell, str) else words[cell] for cell in cells]
        return pl.Series(name, mixed, dtype=pl.String)
