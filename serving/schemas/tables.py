"""Tables as JSON has them: columns of cells, or records, under names of the client's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Self

import polars as pl
from pydantic import (
    FailFast,
    Field,
    PrivateAttr,
    model_validator,
)
from typing_extensions import TypeAliasType

from serving.schemas.fields import Strict

# A column is read as the first of these forms that fits all of its cells.
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # larger ones are read as numbers
Integers = TypeAliasType("Integers", Annotated[list[Integer | None], FailFast()])
Numbers = TypeAliasType("Numbers", Annotated[list[float | None], FailFast()])
Texts = TypeAliasType("Texts", Annotated[list[str | None], FailFast()])
Mixed = TypeAliasType("Mixed", Annotated[list[bool | Integer | float | str | None], FailFast()])
Column = Annotated[Integers | Numbers | Texts | Mixed, Field(union_mode="left_to_right")]
Cells = Sequence[bool | int | float | str | None] | pl.Series  # of JSON, of Arrow


class Columns(Strict):
    """The client's names for the three columns that every table has."""

    _places: Callable[[str], str] | None = PrivateAttr(default=None)

    id: Annotated[str, Field(min_length=1, max_length=128)] = "unique_id"
    time: Annotated[str, Field(min_length=1, max_length=128)] = "ds"
    target: Annotated[str, Field(min_length=1, max_length=128)] = "y"

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = {self.id, self.time, self.target}
        if len(names) < 3 or "mean" in names:
            raise ValueError("the three names must differ, and none may be 'mean'")
        return self

    def sent_as(self, places: Callable[[str], str]) -> Columns:
        """The same names for cells that came in another form than columns."""
        copy = self.model_copy()
        copy._places = places
        return copy

    def place(self, pointer: str | None) -> str | None:
        """Where a place in the columns stands in what was sent."""
        return pointer if pointer is None or self._places is None else self._places(pointer)


Cell = bool | Integer | float | str | None
Record = dict[str, Cell]
Columnar = TypeAliasType("Columnar", Annotated[dict[str, Column], FailFast()])
Records = TypeAliasType("Records", Annotated[list[Annotated[Record, FailFast()]], FailFast()])
AnyTable = Annotated[
    Columnar | Records,
    Field(
        union_mode="left_to_right",
        description="Columns of one length, or records; an absent member of a record is null.",
    ),
]


Table = Annotated[
    dict[str, Column],
    FailFast(),
    Field(description="Columns of one length: `unique_id` (optional), `ds`, `y`."),
]


Ahead = Annotated[
    dict[str, Column],
    FailFast(),
    Field(description="Covariates known over the horizon: exactly `h` rows a series."),
]


Attributes = Annotated[
    dict[str, Column],
    FailFast(),
    Field(description="Attributes of the series: one row each, `unique_id` (optional) first."),
]
