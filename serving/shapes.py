"""The forms that the tables of a JSON request may have: columns, records, series. All become columns.

What is wrong is found in the columns; `Columns.place` says where that stands in what was sent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import accumulate, chain
from typing import Any, TypeVar

import numpy as np
import polars as pl
from pydantic import create_model

from pipelines import times
from pipelines.frequency import Frequency
from pipelines.stamps import Stamps, read_stamps
from serving import tables
from serving.body import pointer_to
from serving.limits import Limits
from serving.problems import Item, Problem, of_faults
from serving.schemas.datasets import DatasetRequest
from serving.schemas.fields import Strict
from serving.schemas.series import OneSeries, Series
from serving.schemas.tables import (
    TABLES,
    AnyData,
    AnyTable,
    Cell,
    Cells,
    Columns,
    MisfitError,
    Record,
    read_cells,
    read_column,
    read_inside,
)
from serving.trees import problem_of
from tsformer.errors import DataError

Asked = TypeVar("Asked", bound=Strict)
NO_SOURCE = (
    'Send data, as {"ds": [...], "y": [...]}, or file, the name of one in the folder of datasets.'
)
ANY_DAY = "2000-01-03"
AT_ONCE = 1_000  # rows whose members are counted together


@cache
def in_any_form(model: type[Any]) -> type[Any]:
    """`model` whose tables may be records, and are not needed where `series` replaces them."""
    fields: dict[str, Any] = {n: (AnyTable, {}) for n in TABLES if n in model.model_fields}
    if "data" not in fields:
        return model
    fields["data"] = (AnyData, {})
    if not issubclass(model, Series) and model.model_fields["data"].is_required():
        fields["data"] = (AnyData, ...)
    return create_model(model.__name__, __base__=model, **fields)


def columnar(asked: Asked, limits: Limits) -> Asked:
    """`asked`, read as `in_any_form`, with tables of columns.

    Their number is looked at first: a column is as long as the table, however few cells came.
    """
    if (
        isinstance(asked, DatasetRequest)
        and not asked.file
        and "data" not in asked.model_fields_set
    ):
        raise Problem("invalid-request", NO_SOURCE, [Item(NO_SOURCE, "")])
    if isinstance(asked, Series) and asked.series:
        limits.check_size(series=len(asked.series), values=sum(len(s.y) for s in asked.series))
        return _of_series(asked, limits)
    records = {
        name: table for name in TABLES if isinstance(table := getattr(asked, name, None), list)
    }
    if not records:
        return asked
    if not records.get("data", True):
        message = "The table has no rows."
        raise of_faults(message, [Item(message, "/data", "insufficient_history")])
    update: dict[str, Any] = {
        name: _of_records(table, name, limits) for name, table in records.items()
    }
    if isinstance(columns := getattr(asked, "columns", None), Columns):
        update["columns"] = columns.sent_as(_places_of_records(records))
    return asked.model_copy(update=update)


# --- records ------------------------------------------------------------------------------------


def _of_records(records: Sequence[Record], table: str, limits: Limits) -> dict[str, Cells]:
    """The columns of a table that came row by row; an absent member is missing."""
    names = _names(records, f"/{table}", limits)
    read = read_cells if table == "data" else read_column
    try:
        return {n: read_inside(n, [record.get(n) for record in records], read) for n in names}
    except MisfitError as error:
        name, row = error.at
        raise problem_of(error, (table, row, name)) from None


def _names(rows: Sequence[Mapping[str, Any]], pointer: str, limits: Limits) -> dict[str, None]:
    """The members of all rows, in the order in which they first appear; no more than columns."""
    names: dict[str, None] = {}
    for start in range(0, len(rows), AT_ONCE):
        names |= dict.fromkeys(chain.from_iterable(rows[start : start + AT_ONCE]))
        if len(names) > limits.columns:
            limits.check_count("columns", pointer, count=len(names), maximum=limits.columns)
    return names


def _places_of_records(records: Mapping[str, Sequence[Record]]) -> Callable[[str], str]:
    def place(pointer: str) -> str:
        table, *rest = _parts(pointer)
        if table not in records or not rest:
            return pointer
        if len(rest) < 2:
            return f"/{table}"
        name, row = rest[0], int(rest[1])
        there = name in records[table][row]
        return pointer_to(table, row, *([name] if there else []))

    return place


def _parts(pointer: str) -> list[str]:
    """The parts of a JSON pointer; one that points to the whole has an empty one."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")]
    return parts[1:] or [""]


# --- series -------------------------------------------------------------------------------------


def _of_series(asked: Series, limits: Limits) -> Any:
    """The three tables of a request whose series came one by one."""
    given = [name for name in TABLES if name in asked.model_fields_set]
    if given:
        message = "'series' replaces data, future and static. Give one or the other."
        raise Problem("invalid-request", message, [Item(message, f"/{given[0]}")])
    for side in (lambda s: s.covariates, lambda s: s.future, lambda s: s.static):
        _names([*map(side, asked.series)], "/series", limits)
    columns = asked.columns.sent_as(_places_of_series(asked), by_series=True)
    asked = asked.model_copy(update={"columns": columns})
    _check(asked)
    series = asked.series
    ids = [one.unique_id for one in series]
    lone = ids == [None]
    lengths = [len(one.y) for one in series]
    data = {
        columns.time: _joined([*_stamps(asked)]),
        columns.target: _joined([one.y for one in series]),
        **_side([one.covariates for one in series], lengths),
    }
    ahead = [len(next(iter(one.future.values()), ())) for one in series]
    future = _side([one.future for one in series], ahead)
    named = [k for k, one in enumerate(series) if one.static]
    static = _side([{n: [c] for n, c in series[k].static.items()} for k in named], [1] * len(named))
    if not lone:
        data = {columns.id: _repeated(ids, lengths), **data}
        future = {columns.id: _repeated(ids, ahead), **future} if future else {}
        static = {columns.id: read_column([ids[k] for k in named]), **static} if static else {}
    return asked.model_copy(update={"data": data, "future": future, "static": static})


def _joined(parts: Sequence[Cells]) -> list[Cell]:
    return read_cells([cell for part in parts for cell in part])


def _repeated(ids: Sequence[Cell], counts: Sequence[int]) -> list[Cell]:
    return read_column([name for name, n in zip(ids, counts, strict=True) for _ in range(n)])


def _side(tables: Sequence[Mapping[str, Cells]], lengths: Sequence[int]) -> dict[str, Cells]:
    """Tables below each other; a column that one of them lacks is missing there."""
    names = dict.fromkeys(name for table in tables for name in table)
    return {
        name: _joined([t.get(name) or [None] * n for t, n in zip(tables, lengths, strict=True)])
        for name in names
    }


def _check(asked: Series) -> None:
    """What no table of columns could say: ids twice, lengths that differ, names that are taken."""
    items: list[Item] = []
    columns, seen = asked.columns, dict[Cell, int]()
    taken = {columns.id, columns.time, columns.target}
    for k, one in enumerate(asked.series):
        if one.unique_id is not None and seen.setdefault(one.unique_id, k) != k:
            message = f"The id of series {seen[one.unique_id]}, counted from 0, too."
            items.append(Item(message, f"/series/{k}/unique_id", "id_invalid"))
        items += _lengths(one, k)
        clash = next((n for n in (*one.covariates, *one.future, *one.static) if n in taken), None)
        if clash is not None:
            message = "A column of the table has this name; set another in columns."
            raise Problem("invalid-request", message, [Item(message, f"/series/{k}")])
    if items:
        raise of_faults("The series cannot be used as sent.", items)


def _lengths(one: OneSeries, k: int) -> list[Item]:
    inside = {f"covariates {name}": cells for name, cells in one.covariates.items()}
    if one.ds is not None:
        inside = {"ds": one.ds, **inside}
    ahead = {f"future {name}": cells for name, cells in one.future.items()}
    rows = {"y": len(one.y), "future": len(next(iter(one.future.values()), ()))}
    return [
        Item(f"{len(cells)} cells; {first} has {rows[first]}.",
             pointer_to("series", k, *place.split(" ", 1)), "length_mismatch")
        for first, group in (("y", inside), ("future", ahead))
        for place, cells in group.items()
        if len(cells) != rows[first]
    ]  # fmt: skip


# --- stamps that follow from a start --------------------------------------------------------------


def _stamps(asked: Series) -> list[Cells]:
    """The stamps of each series: those that were sent, or a grid from `start`."""
    begun = [k for k, one in enumerate(asked.series) if one.start is not None]
    if not begun:
        return [one.ds or [] for one in asked.series]
    tables.check_freq(asked.freq)
    tables.check_tz(asked.tz)
    starts = [asked.series[k].start for k in begun]
    if asked.freq is None and str in {*map(type, starts)}:
        message = "With start the stamps follow from freq. Give it, or ds instead of start."
        raise Problem("invalid-request", message, [Item(message, "")])
    if len({*map(type, starts)}) > 1:
        message = "Give all starts as text, or all of them as integers."
        raise of_faults(message, [Item(message, "/series", "timestamp_invalid")])
    with tables.placed(asked.columns):
        read = read_stamps(pl.Series(asked.columns.time, starts), tz=asked.tz)
    frequency = _fitting(1 if asked.freq is None else asked.freq, read.values)
    rows = [len(asked.series[k].y) for k in begun]
    grids: dict[int, Cells] = dict(zip(begun, _grids(frequency, read, rows, starts), strict=True))
    return [grids.get(k, one.ds or []) for k, one in enumerate(asked.series)]


def _fitting(freq: str | int, starts: pl.Series) -> Frequency:
    """The meaning of `freq` on whose days most starts lie; `1w` names no weekday, say."""
    candidates = Frequency.candidates(freq)
    if len(candidates) == 1 or starts.dtype.is_integer():
        return candidates[0]
    days = times.wall(starts.drop_nulls()) // times.DAY
    return max(candidates, key=lambda candidate: candidate.lattice.contains(days).sum())


def _grids(
    frequency: Frequency, read: Stamps, rows: Sequence[int], starts: Sequence[Cell]
) -> list[list[Cell]]:
    """The stamps of each series: of all at once, or one by one where some have none."""
    further = np.array(rows) - 1  # than the start
    begins = np.repeat(np.arange(len(rows)), further)
    steps = np.concatenate([np.arange(1, n) for n in rows])
    if not read.values.null_count() and read.values.dtype.is_integer() == frequency.is_integer:
        with suppress(DataError):  # beyond the range of stamps
            grid = frequency.shift(read.values.gather(begins), steps)
            rest = (grid if frequency.is_integer else times.text(grid, read.tz)).to_list()
            ends = np.cumsum(further).tolist()
            return [
                [start, *rest[end - n : end]]
                for start, n, end in zip(starts, further.tolist(), ends, strict=True)
            ]
    return [_grid(frequency, read, k, rows[k], start) for k, start in enumerate(starts)]


def _grid(frequency: Frequency, read: Stamps, place: int, rows: int, start: Cell) -> list[Cell]:
    """`rows` stamps from a start; the start alone, for the panel to name, where there are none.

    After a start that is no stamp by itself the others are some, so that it is named as what it is.
    """
    begin = read.values[place : place + 1]
    unusable: list[Cell] = [start, *[None] * (rows - 1)]
    if begin.dtype.is_integer() != frequency.is_integer:
        return unusable
    if begin.null_count() and not frequency.is_integer:
        begin = read_stamps(pl.Series([ANY_DAY]), tz=read.tz).values
    if begin.null_count():
        return unusable
    try:
        grid = frequency.shift(begin.gather(np.zeros(rows - 1, np.int64)), np.arange(1, rows))
    except DataError:  # beyond the range of stamps
        return unusable
    rest = grid if frequency.is_integer else times.text(grid, read.tz)
    return [start, *rest.to_list()]  # the start as it is: it may be off the grid, which is a fault


# --- places -------------------------------------------------------------------------------------


def _places_of_series(asked: Series) -> Callable[[str], str]:
    """Where the cells of the three tables stand in `series`."""
    series, columns = asked.series, asked.columns
    ends: dict[str, list[int]] = {
        "data": [*accumulate(len(one.y) for one in series)],
        "future": [*accumulate(len(next(iter(one.future.values()), ())) for one in series)],
        "static": [*accumulate(bool(one.static) for one in series)],
    }

    def place(pointer: str) -> str:
        table, *rest = _parts(pointer)
        if table not in ends:
            return pointer
        if len(rest) < 2:
            return "/series"
        name, row = rest[0], int(rest[1])
        k = bisect_right(ends[table], row)
        inner = row - (ends[table][k - 1] if k else 0)
        return pointer_to("series", k, *_inside(series[k], table, name, inner))

    def _inside(one: OneSeries, table: str, name: str, row: int) -> Sequence[int | str]:
        if name == columns.id:
            return ["unique_id"] if one.unique_id is not None else []
        if table == "static":
            return ["static", *([name] if name in one.static else [])]
        if table == "future":
            return ["future", name, row] if name in one.future else ["future"]
        if name == columns.time:
            return ["start"] if one.ds is None else ["ds", row]
        if name == columns.target:
            return ["y", row]
        return ["covariates", name, row] if name in one.covariates else []

    return place
