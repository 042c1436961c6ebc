"""Cells and numbers that came as Python values of loose JSON, as columns; NaN and null are missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from serving.problems import Item, Problem
from serving.schemas.tables import BEYOND, INFINITE, KINDS, LEAST, MOST, Cells

Floats = NDArray[np.float64]
Pointer = Callable[[int], str]  # of a row
CELL = "A cell must be a number, text, true, false, null or NaN."


def column_of(cells: Collection[Any], pointer: Pointer) -> Cells:
    """A column of plain kind, or the cells as they are where they are of several kinds."""
    kinds = set(map(type, cells))
    if not kinds <= KINDS:
        row = next(i for i, cell in enumerate(cells) if type(cell) not in KINDS)
        raise Problem("invalid-request", "A cell cannot be read.", [Item(CELL, pointer(row))])
    if int in kinds and any(type(c) is int and not LEAST <= c <= MOST for c in cells):
        cells = [_as_float(cell, row, pointer) for row, cell in enumerate(cells)]
        kinds = set(map(type, cells))
    if float in kinds and not INFINITE.isdisjoint(cells):
        raise _infinite(pointer(next(i for i, cell in enumerate(cells) if cell in INFINITE)))
    if kinds <= {float, int, type(None)} and float in kinds:
        return pl.Series(numbers_of(cells, pointer)).fill_nan(None)
    if float in kinds:
        cells = [None if cell != cell else cell for cell in cells]
    kinds = {*map(type, cells)} - {type(None)}
    return [*cells] if len(kinds) > 1 else pl.Series([*cells])


def _as_float(cell: Any, row: int, pointer: Pointer) -> Any:
    """An integer as a number, as JSON has it where it is large."""
    try:
        return float(cell) if type(cell) is int else cell
    except OverflowError:
        raise _infinite(pointer(row)) from None


def numbers_of(cells: Collection[Any], pointer: Pointer) -> Floats:
    """Numbers, NaN where missing; `invalid-data` for text, true and what is not finite."""
    kinds = set(map(type, cells))
    if not kinds <= {int, float, type(None)}:
        row = next(i for i, cell in enumerate(cells) if type(cell) not in (int, float, type(None)))
        raise _bad(
            "non_numeric", "Not a number. Give numbers, or null where missing.", pointer(row)
        )
    try:
        values = np.array([*cells], dtype=np.float64)  # None is NaN
    except OverflowError:  # an integer of more than 308 digits
        row = next(i for i, cell in enumerate(cells) if type(cell) is int and abs(cell) >= BEYOND)
        raise _infinite(pointer(row)) from None
    check_finite(values, pointer)
    return values


def check_finite(values: NDArray[np.floating[Any]], pointer: Pointer) -> None:
    """Raises `invalid-data` for the first infinity among `values`."""
    infinite = np.isinf(values)
    if infinite.any():
        raise _infinite(pointer(int(infinite.argmax())))


def _infinite(pointer: str) -> Problem:
    message = "Infinite, or too large for a float64. Give a finite number, or null."
    return _bad("non_finite", message, pointer)


def _bad(code: str, message: str, pointer: str) -> Problem:
    return Problem("invalid-data", "A value cannot be used.", [Item(message, pointer, code)])


def joined(columns: Sequence[Cells]) -> Cells:
    """Columns one below the other: of one kind, or as cells of several."""
    tables = [cells for cells in columns if isinstance(cells, pl.Series)]
    kinds = {cells.dtype for cells in tables if cells.null_count() < len(cells)}
    if len(tables) < len(columns) or len(kinds) > 1:
        if kinds <= {pl.Int64, pl.Float64} and len(tables) == len(columns):
            return pl.concat([cells.cast(pl.Float64) for cells in tables])
        return [cell for cells in columns for cell in cells]
    kind = next(iter(kinds), pl.Null())
    return pl.concat([cells.cast(kind) for cells in tables])
