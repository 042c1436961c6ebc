"""From the table of a request to a panel, and from faults in the data to places in the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from pipelines.covariates import NO_INPUTS, Covariate, Inputs
from pipelines.frequency import EXAMPLES, Frequency
from pipelines.panel import LONE_ID, Panel, Report, Schema, TooManyRowsError, read_panel
from pipelines.times import check_zone
from serving import direct
from serving.body import pointer_to
from serving.limits import Limits
from serving.problems import Item, Problem, of_faults, too_large
from serving.schemas import Cells, Columns, Options, Series
from tsformer.errors import ConfigError, DataError, Fault

FUTURE_FAULTS = ("future_missing", "future_extra", "covariate_missing")  # of the table future
TIME_FAULTS = ("duplicate_timestamp", "gap", "off_grid")  # that name a row and mean its stamp


@dataclass(frozen=True, slots=True)
class Data:
    """The usable series of a request, and what is to be said about all of them."""

    panel: Panel
    report: Report
    unused: tuple[str, ...]  # places of columns, in words


def read(asked: Series, options: Options, limits: Limits, *, inputs: Inputs = NO_INPUTS) -> Data:
    """The panel of a request; `inputs` are what its models want beside the target.

    Raises the problems `too-large`, `invalid-request` and `invalid-data`, with pointers.
    """
    data, columns = asked.data, asked.columns
    limits.check_count("columns", "/data", count=len(data), maximum=limits.columns)
    ahead, static = asked.future, asked.static
    for name, table in (("future", ahead), ("static", static)):
        limits.check_count("columns", f"/{name}", count=len(table), maximum=limits.columns)
    limits.check_size(
        series=len(set(data.get(columns.id, ()))),
        values=sum(map(len, (*data.values(), *ahead.values(), *static.values()))),
    )
    _check_columns(data, columns)
    _check_covariates(asked, inputs)
    _check_grid_words(asked)
    schema = Schema(
        id=columns.id if columns.id in data else None,
        time=columns.time,
        targets=(columns.target,),
        **inputs.names,
    )
    attributes = _attributes(asked, inputs)
    try:
        panel, report = direct.read(asked, schema) or read_panel(
            pl.DataFrame(
                {name: _series(name, data[name]) for name in schema.roles if name in data}
                | attributes
            ),
            schema=schema,
            freq=asked.freq,
            tz=asked.tz,
            on_invalid=options.on_invalid,
            fill=options.fill,
            max_rows=limits.input_values // len(schema.roles),
        )
    except TooManyRowsError as error:
        filled = error.rows * len(schema.roles)
        raise too_large("input_values", maximum=limits.input_values, actual=filled) from error
    except DataError as error:
        raise problem_of_data(error, columns) from error
    limits.check_length(max((b - a for a, b in pairwise(panel.offsets.tolist())), default=0))
    read = {
        "data": {*schema.roles} - {*schema.static},
        "future": {columns.id, columns.time, *schema.known},
        "static": {columns.id, *schema.static},
    }
    unused = tuple(
        f"Column {place} of {table}, counted from 0,"
        for table, cells in (("data", data), ("future", ahead), ("static", static))
        for place, name in enumerate(cells)
        if name not in read[table]
    )
    return Data(panel, report, unused)


@contextmanager
def placed(columns: Columns) -> Iterator[None]:
    """Gives the faults of a DataError their places in the request."""
    try:
        yield
    except DataError as error:
        raise problem_of_data(error, columns) from error


def problem_of_data(error: DataError, columns: Columns) -> Problem:
    """The problem of faults in the data, each with its place in the request."""
    items = [item_of(fault, columns) for fault in error.faults]
    series = {fault.series for fault in error.faults if fault.series is not None}
    detail = f"{len(series)} series are invalid." if len(series) > 1 else "The data are invalid."
    return of_faults(f"{detail} Repair them, or set options.on_invalid or options.fill.", items)


def item_of(fault: Fault, columns: Columns) -> Item:
    """A fault as an item of a problem."""
    column = fault.column
    if column is None and fault.row is not None:
        column = columns.time if fault.code in TIME_FAULTS else columns.id
    table = "future" if fault.code in FUTURE_FAULTS else "data"
    place = [table, *([column] if column is not None else [])]
    row = [fault.row] if fault.row is not None and column is not None else []
    return Item(fault.message, pointer_to(*place, *row), fault.code, fault.series)


def _check_columns(data: Mapping[str, Cells], columns: Columns) -> None:
    """Missing columns, columns of several lengths, and cells of the wrong kind."""
    items = [
        Item(
            f"The column for the {role} is missing. It is called {usual}, or what columns.{role} says.",
            "/data",
            "missing_column",
        )
        for role, usual, name in (("time", "ds", columns.time), ("target", "y", columns.target))
        if name not in data
    ]
    rows = len(next(iter(data.values()), ()))
    items += lengths(data, "data")
    if not items:
        items = [
            *misfits(data, columns.id, (str, int), "id_invalid", "Ids are text or integers."),
            *misfits(data, columns.time, (str, int), "timestamp_invalid",
                      "Stamps are ISO 8601 text, or all of them integers."),
            *misfits(data, columns.target, (int, float), "non_numeric",
                      "Not a number. Give numbers, or null where it is missing."),
        ]  # fmt: skip
    if not items and not rows:
        items = [Item("The table has no rows.", "/data", "insufficient_history")]
    if items:
        raise of_faults("The table cannot be used as sent.", items)


def _check_covariates(asked: Series, inputs: Inputs) -> None:
    """The covariates that the model needs over the history, and for the series."""
    data, static = asked.data, asked.static
    absent = [column.name for column in inputs.columns if column.name not in data]
    if absent:
        message = f"The model needs the columns {', '.join(absent)} in data"
        ahead = [column.name for column in inputs.known if column.name in absent]
        message += f", and {', '.join(ahead)} in future." if ahead else "."
        item = Item(message, "/data", "covariate_missing")
        raise Problem("future-covariates-missing", message, [item])
    message = "Not a number. Give numbers, or null where it is missing."
    items = [
        item
        for column in inputs.columns
        for item in misfits(data, column.name, kinds_of(column), "non_numeric", message)
    ]
    absent = [column.name for column in inputs.static if column.name not in static]
    if absent:
        names = ", ".join(absent)
        message = f"The model needs {names} of every series, in the table 'static'."
        items.append(Item(message, "/static", "covariate_missing"))
    items += lengths(static, "static")
    for column in inputs.static:
        items += misfits(
            static, column.name, kinds_of(column), "non_numeric", message, table="static"
        )
    if items:
        raise of_faults("The table cannot be used as sent.", items)


def kinds_of(column: Covariate) -> tuple[type, ...]:
    """The kinds of cells that a covariate may have; the names of a category may be numbers."""
    return (str, int, float, bool) if column.size else (int, float, bool)


def covariate_cells(column: Covariate, cells: Cells) -> pl.Series:
    """The cells of a covariate: numbers, or text where it is a category."""
    values = _series(column.name, cells)
    return values if column.size else values.cast(pl.Float64)


def _attributes(asked: Series, inputs: Inputs) -> dict[str, pl.Series]:
    """The static columns that models want, in every row of `data`.

    Raises `invalid-data` for a series of `data` without its one row in `static`.
    """
    if not inputs.static:
        return {}
    columns, static = asked.columns, asked.static
    rows = len(asked.data[columns.time])
    ids = list(asked.data.get(columns.id) or [LONE_ID] * rows)
    known = list(static.get(columns.id) or [LONE_ID] * len(next(iter(static.values()), ())))
    twice = {name for name in known if known.count(name) > 1} if len(known) > len({*known}) else {}
    items = [
        Item("One row in static is needed for this series.", "/static", code, str(name))
        for code, names in (
            ("covariate_missing", dict.fromkeys(name for name in ids if name not in {*known})),
            ("static_conflict", twice),
        )
        for name in names
    ]
    if items:
        raise of_faults("Each series needs one row in the table 'static'.", items)
    place = {name: row for row, name in enumerate(known)}
    rows_of = [place[name] for name in ids]
    return {
        column.name: covariate_cells(column, static[column.name]).gather(rows_of)
        for column in inputs.static
    }


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
    found = {type(cell) for cell in cells} - {type(None)}
    if found <= set(kinds) and (len(found) < 2 or float in kinds):
        return []
    first = next(type(cell) for cell in cells if cell is not None)
    fitting = set(kinds) if float in kinds else {first} & set(kinds)
    row = next(i for i, cell in enumerate(cells) if cell is not None and type(cell) not in fitting)
    return [Item(message, pointer_to(table, name, row), code)]


def _check_grid_words(asked: Series) -> None:
    try:
        if asked.freq is not None:
            Frequency.candidates(asked.freq)
    except ConfigError:
        message = f"Not a frequency. Known are {EXAMPLES}, and integers."
        raise Problem("invalid-request", "freq is unknown.", [Item(message, "/freq")]) from None
    try:
        if asked.tz is not None:
            check_zone(asked.tz)
    except ConfigError:
        message = "Not an IANA time zone, as Europe/Berlin is one."
        raise Problem("invalid-request", "tz is unknown.", [Item(message, "/tz")]) from None


def _series(name: str, cells: Cells) -> pl.Series:
    """A column of the request as it is; a mixed one, which only covariates can be, as text."""
    try:
        return pl.Series(name, cells)
    except (TypeError, pl.exceptions.PolarsError):
        return pl.Series(name, [None if cell is None else str(cell) for cell in cells])
