"""From the table of a request to a panel, and from faults in the data to places in the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from pipelines.frequency import EXAMPLES, Frequency
from pipelines.panel import Panel, Report, Schema, read_panel
from pipelines.times import check_zone
from serving import direct
from serving.body import pointer_to
from serving.limits import Limits
from serving.problems import Item, Problem, of_faults
from serving.schemas import Cells, Columns, Options, Series
from tsformer.errors import ConfigError, DataError, Fault

TIME_FAULTS = ("duplicate_timestamp", "gap", "off_grid")  # that name a row and mean its stamp


@dataclass(frozen=True, slots=True)
class Data:
    """The usable series of a request, and what is to be said about all of them."""

    panel: Panel
    report: Report
    unused: tuple[str, ...]


def read(asked: Series, options: Options, limits: Limits, *, known: Sequence[str] = ()) -> Data:
    """The panel of a request; `known` are the covariates that its models want.

    Raises the problems `too-large`, `invalid-request` and `invalid-data`, with pointers.
    """
    data, columns = asked.data, asked.columns
    limits.check_count("columns", "/data", count=len(data), maximum=limits.columns)
    limits.check_size(
        series=len(set(data.get(columns.id, ()))), values=sum(map(len, data.values()))
    )
    _check_columns(data, columns)
    _check_grid_words(asked)
    wanted = tuple(name for name in known if name in data)
    schema = Schema(
        id=columns.id if columns.id in data else None,
        time=columns.time,
        targets=(columns.target,),
        known=wanted,
    )
    try:
        panel, report = direct.read(asked, schema) or read_panel(
            pl.DataFrame({name: _series(name, data[name]) for name in schema.roles}),
            schema=schema,
            freq=asked.freq,
            tz=asked.tz,
            on_invalid=options.on_invalid,
            fill=options.fill,
        )
    except DataError as error:
        raise problem_of_data(error, columns) from None
    limits.check_length(max((b - a for a, b in pairwise(panel.offsets.tolist())), default=0))
    unused = tuple(name for name in data if name not in schema.roles)
    return Data(panel, report, unused)


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
    place = ["data", *([column] if column is not None else [])]
    row = [fault.row] if fault.row is not None and column is not None else []
    return Item(fault.message, pointer_to(*place, *row), fault.code, fault.series)


def _check_columns(data: Mapping[str, Cells], columns: Columns) -> None:
    """Missing columns, columns of several lengths, and cells of the wrong kind."""
    items = [
        Item(f"The column for {role} is missing.", "/data", "missing_column")
        for role, name in (("the time", columns.time), ("the target", columns.target))
        if name not in data
    ]
    rows = len(next(iter(data.values()), ()))
    items += [
        Item(f"{len(cells)} cells; the first column has {rows}.", pointer_to("data", name),
             "length_mismatch")
        for name, cells in data.items()
        if len(cells) != rows
    ]  # fmt: skip
    if not items:
        items = [
            *_misfits(data, columns.id, (str, int), "id_invalid", "Ids are text or integers."),
            *_misfits(data, columns.time, (str, int), "timestamp_invalid",
                      "Stamps are ISO 8601 text, or all of them integers."),
            *_misfits(data, columns.target, (int, float), "non_numeric",
                      "Not a number. Give numbers, or null where it is missing."),
        ]  # fmt: skip
    if not items and not rows:
        items = [Item("The table has no rows.", "/data", "insufficient_history")]
    if items:
        raise of_faults("The table cannot be used as sent.", items)


def _misfits(
    data: Mapping[str, Cells], name: str, kinds: tuple[type, ...], code: str, message: str
) -> list[Item]:
    """The first cell of a column that is of none of `kinds`, or of another than the first."""
    cells = data.get(name, ())
    found = {type(cell) for cell in cells} - {type(None)}
    if found <= set(kinds) and (len(found) < 2 or float in kinds):
        return []
    first = next(type(cell) for cell in cells if cell is not None)
    fitting = set(kinds) if float in kinds else {first} & set(kinds)
    row = next(i for i, cell in enumerate(cells) if cell is not None and type(cell) not in fitting)
    return [Item(message, pointer_to("data", name, row), code)]


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
