"""Data frames, by rows in two kinds of JSON or in CSV, as columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import polars as pl

from pipelines.tables import MISSING
from serving.body import pointer_to
from serving.compat.columns import column_of
from serving.compat.invocations.schemas import Split
from serving.limits import Limits
from serving.problems import Item, Problem, too_large
from serving.schemas.tables import Cells, Columns

HEADER_BYTES = 64 * 1024
BOM = b"\xef\xbb\xbf"  # that spreadsheets write before UTF-8


@dataclass(frozen=True, slots=True)
class Frame:
    """The columns of a data frame, and the pointers to it, to a row of it and to a cell."""

    columns: Mapping[str, Cells]
    whole: str
    cell: Callable[[str, int], str]


def of_split(split: Split, limits: Limits) -> Frame:
    """The columns of rows that are arrays."""
    rows, names, where = split.data, split.columns, "/dataframe_split"
    _check_rows(rows, list, f"{where}/data")
    uneven = next((place for place, row in enumerate(rows) if len(row) != len(names)), None)
    if uneven is not None:
        message = f"This row has {len(rows[uneven])} cells, for {len(names)} columns."
        raise _invalid(message, f"{where}/data/{uneven}")
    if len(set(names)) < len(names):
        raise _invalid("Two columns have the same name.", f"{where}/columns")
    _check_size(len(rows), len(names), f"{where}/columns", limits)
    places = {name: place for place, name in enumerate(names)}

    def cell(name: str, row: int) -> str:
        return f"{where}/data/{row}/{places[name]}" if name in places else f"{where}/data/{row}"

    found = {
        name: column_of([row[place] for row in rows], partial(cell, name))
        for name, place in places.items()
    }
    return Frame(found, where, cell)


def of_records(rows: Any, limits: Limits, *, where: str = "/dataframe_records") -> Frame:
    """The columns of rows that are objects; what a row leaves out is missing."""
    _check_rows(rows, dict, where)
    names = [*dict.fromkeys(chain.from_iterable(rows))]
    _check_size(len(rows), len(names), where, limits)

    def cell(name: str, row: int) -> str:
        return f"{where}/{row}" + (pointer_to(name) if name in rows[row] else "")

    found = {
        name: column_of([row.get(name) for row in rows], partial(cell, name)) for name in names
    }
    return Frame(found, where, cell)


def of_columns(table: Mapping[str, Any], limits: Limits, *, where: str) -> Frame:
    """The columns of a table in columns."""
    for name, cells in table.items():
        if not isinstance(cells, list):
            raise _invalid("A column is an array of cells.", where + pointer_to(name))
    rows = max(map(len, table.values()), default=0)
    _check_size(rows, len(table), where, limits)

    def cell(name: str, row: int) -> str:
        return where + pointer_to(name, row)

    found = {name: column_of(cells, partial(cell, name)) for name, cells in table.items()}
    return Frame(found, where, cell)


def _check_rows(rows: Any, kind: type, where: str) -> None:
    expected = "arrays" if kind is list else "objects"
    if not isinstance(rows, list):
        raise _invalid(f"Give an array of rows, which are {expected}.", where)
    if not set(map(type, rows)) <= {kind}:
        place = next(i for i, row in enumerate(rows) if type(row) is not kind)
        raise _invalid(f"All rows are {expected}.", f"{where}/{place}")


def _check_size(rows: int, columns: int, where: str, limits: Limits) -> None:
    """Before anything is made of them: each row may name columns that no other has."""
    limits.check_count("columns", where, count=columns, maximum=limits.columns)
    if rows * columns > limits.input_values:
        raise too_large("input_values", maximum=limits.input_values, actual=rows * columns)


# --- CSV ------------------------------------------------------------------------------------------


def of_csv(sent: bytes, columns: Columns, limits: Limits, *, steps: bool) -> Frame:
    """The columns of a CSV with a header: ids stay text, other columns are numbers if all cells are,
    the target where they are.

    Stamps are integer steps where `steps` says that they may be, and all of them are integers.

    Cells without anything in them, and the usual words for nothing, are missing, but in ids.
    """
    sent = sent.removeprefix(BOM)
    names = _header(sent)
    limits.check_count("columns", "/data", count=len(names), maximum=limits.columns)
    rows = sent.count(b"\n")
    if rows * len(names) > limits.input_values:
        raise too_large("input_values", maximum=limits.input_values, actual=rows * len(names))
    try:
        table = pl.read_csv(io.BytesIO(sent), infer_schema=False)
    except pl.exceptions.PolarsError:
        detail = "The body is not CSV in UTF-8: a header, and rows of as many cells."
        raise Problem("malformed-body", detail) from None
    if len(table.columns) != len(names):
        raise Problem("malformed-body", "The header is not one line of names.")
    _check_rows_whole(sent, names, len(table))
    found: dict[str, Cells] = {}
    for name, cells in zip(names, table.get_columns(), strict=True):
        numbers = cells if name == columns.id else _numbers(cells)
        if name == columns.time and not (steps and numbers.dtype == pl.Int64):
            numbers = cells
        of_target = name == columns.target and numbers.dtype == pl.String
        found[name] = _each(numbers) if of_target else numbers.rename(name)
    return Frame(found, "/data", lambda name, row: pointer_to("data", name, row))


def _header(sent: bytes) -> Sequence[str]:
    """The names of the columns."""
    try:
        names = next(csv.reader(io.StringIO(sent[:HEADER_BYTES].decode(errors="replace"))), [])
    except csv.Error:
        names = []
    if not names:
        raise Problem("malformed-body", "The first line of a CSV names its columns.")
    if len(set(names)) < len(names):
        raise Problem("invalid-request", "Two columns have the same name.")
    return names


def _check_rows_whole(sent: bytes, names: Sequence[str], rows: int) -> None:
    """Refuses a row with too few cells, which the reader fills with nothing; it knows too many."""
    wide = len(names) - 1
    if not wide or (b'"' not in sent and sent.count(b",") == wide * (rows + 1)):
        return
    text = io.TextIOWrapper(io.BytesIO(sent), errors="replace", newline="")
    try:
        short = next((n for n, row in enumerate(csv.reader(text)) if 0 < len(row) <= wide), None)
    except csv.Error:
        raise Problem("malformed-body", "A cell is too long to be read.") from None
    if short is not None:
        raise Problem("malformed-body", f"Row {short - 1} of the CSV has too few cells.")


def _numbers(cells: pl.Series) -> pl.Series:
    """Text as integers or numbers if all of it is; else as it is."""
    known = pl.select(pl.when(~cells.is_in([*MISSING])).then(cells)).to_series()
    for kind in (pl.Int64, pl.Float64):
        numbers = known.cast(kind, strict=False)
        if numbers.null_count() == known.null_count():
            return numbers
    return known


def _each(cells: pl.Series) -> Cells:
    """Text where some is no number: what is one as such, so that the other is to blame."""
    numbers = cells.cast(pl.Float64, strict=False)
    pairs = zip(cells, numbers, numbers.is_finite(), strict=True)
    return [number if finite else text for text, number, finite in pairs]


def _invalid(message: str, pointer: str) -> Problem:
    return Problem("invalid-request", "A table is not as specified.", [Item(message, pointer)])
