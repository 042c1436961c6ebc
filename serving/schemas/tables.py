"""Tables as JSON has them: columns of cells, or records, under names of the client's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from types import NoneType
from typing import Annotated, Any, Self

import polars as pl
from pydantic import Field, PlainValidator, PrivateAttr, model_validator
from typing_extensions import TypeAliasType

from serving.schemas.fields import Strict

LEAST, MOST = -(2**63), 2**63 - 1
Integer = Annotated[int, Field(ge=LEAST, le=MOST)]
Cell = bool | Integer | float | str | None
Cells = Sequence[bool | int | float | str | None] | pl.Series  # of JSON, of Arrow
TABLES = ("data", "future", "static")
BEYOND = 2**1024 - 2**970  # the first integer that no float64 is near
INFINITE = frozenset({math.inf, -math.inf})
KINDS = {bool, int, float, str, NoneType}
Read = Callable[[Any], list[Any]]  # of a column
CELL = "A cell must be a number, text, true, false or null."
ARRAY, OBJECT = "Input should be a valid array.", "Input should be an object."


class MisfitError(ValueError):
    """What a table cannot hold; `at` leads there from the table, the column or the records."""

    def __init__(self, message: str = "", *at: int | str) -> None:
        super().__init__(message)
        self.at = at


class InfiniteError(MisfitError):
    """A number that is too large for a float64, or a bare NaN or Infinity."""


def read_column(cells: Any) -> list[Any]:
    """A column of JSON as `read_cells` reads it, without numbers that are too large for a float64."""
    column = read_cells(cells)
    kinds = set(map(type, column))
    if float in kinds and not _are_finite(column, kinds):
        wrong = (row for row, cell in enumerate(column) if cell != cell or cell in INFINITE)
        raise InfiniteError("", next(wrong))
    return column


def read_cells(cells: Any) -> list[Any]:
    """A column of JSON: with one number that is not whole, or over 64 bits, no number is whole.

    What is too large for a float64 is infinite, as it may be in Arrow; in `data` it is a fault of
    its series. Cells are looked at all at once, by the set of their types: there may be millions.
    """
    if type(cells) is not list:
        raise MisfitError(ARRAY)
    kinds = set(map(type, cells))
    if strange := kinds - KINDS:
        raise MisfitError(CELL, _first(cells, strange))
    if int in kinds and (float in kinds or not _fit(cells)):
        return _as_numbers(cells, every=kinds <= {int, float, NoneType})
    return cells


def _first(cells: Sequence[Any], kinds: Collection[type]) -> int:
    """The place of the first of these kinds, of which there is one."""
    every = [*map(type, cells)]
    return min(every.index(kind) for kind in kinds)


def _fit(cells: Sequence[Any]) -> bool:
    """Whether all integers fit in 64 bits."""
    integers = [cell for cell in cells if type(cell) is int]
    return min(integers) >= LEAST and max(integers) <= MOST


def _as_numbers(cells: Sequence[Any], *, every: bool) -> list[Any]:
    """The integers as numbers; beside text only those which are too large to be anything else."""
    return [
        _float(cell) if type(cell) is int and (every or not LEAST <= cell <= MOST) else cell
        for cell in cells
    ]


def _float(number: int) -> float:
    if -BEYOND < number < BEYOND:
        return float(number)
    return math.inf if number > 0 else -math.inf


def _are_finite(cells: Sequence[Any], kinds: Collection[type]) -> bool:
    numbers = cells if len(kinds) == 1 else [cell for cell in cells if type(cell) is float]
    return math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers))


def read_columns(table: Any) -> dict[str, list[Any]]:
    """A table as columns of JSON."""
    return _columns(table, read_column)


def read_data(table: Any) -> dict[str, list[Any]]:
    """The table `data` as columns of JSON."""
    return _columns(table, read_cells)


def _columns(table: Any, read: Read) -> dict[str, list[Any]]:
    if type(table) is not dict:
        raise MisfitError(OBJECT)
    return {name: read_inside(name, cells, read) for name, cells in table.items()}


def read_inside(name: str, cells: Any, read: Read = read_column) -> list[Any]:
    """The column `name` of a table; what is wrong is told by its place in the table."""
    try:
        return read(cells)
    except MisfitError as error:
        raise type(error)(str(error), name, *error.at) from None


def read_table(table: Any) -> dict[str, list[Any]] | list[dict[str, Any]]:
    """A table as columns, or as records, whose cells are looked at when they are columns."""
    return _records(table) if type(table) is list else read_columns(table)


def read_any_data(table: Any) -> dict[str, list[Any]] | list[dict[str, Any]]:
    """The table `data` in either form."""
    return _records(table) if type(table) is list else read_data(table)


def _records(table: list[Any]) -> list[dict[str, Any]]:
    if strange := set(map(type, table)) - {dict}:
        raise MisfitError(OBJECT, _first(table, strange))
    return table


def read_record(record: Any) -> dict[str, Any]:
    """A row by itself."""
    if type(record) is not dict:
        raise MisfitError(OBJECT)
    try:
        return {name: read_inside(name, [cell])[0] for name, cell in record.items()}
    except MisfitError as error:
        raise type(error)(str(error), *error.at[:1]) from None


Column = TypeAliasType(
    "Column", Annotated[Any, PlainValidator(read_column, json_schema_input_type=list[Cell])]
)
History = Annotated[Any, PlainValidator(read_cells, json_schema_input_type=list[Cell])]


class Columns(Strict):
    """The client's names for the three columns that every table has."""

    _places: Callable[[str], str] | None = PrivateAttr(default=None)
    _by_series: bool = PrivateAttr(default=False)

    id: Annotated[str, Field(min_length=1, max_length=128)] = "unique_id"
    time: Annotated[str, Field(min_length=1, max_length=128)] = "ds"
    target: Annotated[str, Field(min_length=1, max_length=128)] = "y"

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = {self.id, self.time, self.target}
        if len(names) < 3 or "mean" in names:
            raise ValueError("the three names must differ, and none may be 'mean'")
        return self

    def sent_as(self, places: Callable[[str], str], *, by_series: bool = False) -> Columns:
        """The same names for cells that came in another form than columns."""
        copy = self.model_copy()
        copy._places, copy._by_series = places, by_series
        return copy

    @property
    def by_series(self) -> bool:
        """Whether the rows of each series were counted by themselves."""
        return self._by_series

    def place(self, pointer: str | None) -> str | None:
        """Where a place in the columns stands in what was sent."""
        return pointer if pointer is None or self._places is None else self._places(pointer)


Record = dict[str, Cell]
_EITHER = Field(
    description='Columns of one length, as {"ds": [...], "y": [...]}, or records, as '
    '[{"ds": ..., "y": ...}]; an absent member of a record is null.'
)
_FORMS = dict[str, Column] | list[Record]
AnyTable = Annotated[Any, PlainValidator(read_table, json_schema_input_type=_FORMS), _EITHER]
AnyData = Annotated[Any, PlainValidator(read_any_data, json_schema_input_type=_FORMS), _EITHER]
_COLUMNS = PlainValidator(read_columns, json_schema_input_type=dict[str, Column])
_DATA = PlainValidator(read_data, json_schema_input_type=dict[str, Column])
Beside = Annotated[dict[str, Column], _COLUMNS]
Histories = Annotated[dict[str, Column], _DATA]
Table = Annotated[
    Histories,
    Field(description="Columns of one length: `unique_id` (optional), `ds`, `y`."),
]
Ahead = Annotated[
    Beside,
    Field(description="Covariates known over the horizon: exactly `h` rows a series."),
]
Attributes = Annotated[
    Beside,
    Field(description="Attributes of the series: one row each, `unique_id` (optional) first."),
]
