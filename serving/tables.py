"""From the table of a request to a panel, and from faults in the data to places in the request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import polars as pl

from pipelines.covariates import NO_INPUTS, Inputs
from pipelines.findings import Report
from pipelines.forecast import level_name
from pipelines.frequency import EXAMPLES, Frequency
from pipelines.panel import Panel, TooManyRowsError, read_panel
from pipelines.resample import Resample, read_resampled
from pipelines.schema import LONGEST_ID, Schema
from pipelines.stamps import OUT_OF_RANGE
from pipelines.times import check_zone
from serving import attributes, direct, strays
from serving.body import pointer_to
from serving.cells import NO_NUMBER, STAMPS, beyond, column_of, distinct, kinds_of, lengths, misfits
from serving.limits import Limits
from serving.problems import LEAVE, Item, Problem, of_faults, too_large
from serving.schemas.series import Options, Series
from serving.schemas.tables import Cells, Columns
from tsformer.errors import ConfigError, DataError, Fault

FUTURE_FAULTS = ("future_missing", "future_extra", "covariate_missing")  # of the table future
BEYOND_IDS = "The integer is out of range: it has more than 64 bits. Send such ids as text."
TIME_FAULTS = ("duplicate_timestamp", "gap", "off_grid")  # that name a row and mean its stamp


@dataclass(frozen=True, slots=True)
class Data:
    """The usable series of a request, and what is to be said about all of them.

    `unused` are the places of columns in words, `listed` is how many warnings are told.
    """

    panel: Panel
    report: Report
    unused: tuple[str, ...]
    listed: int


def read(asked: Series, options: Options, limits: Limits, *, inputs: Inputs = NO_INPUTS) -> Data:
    """The panel of a request; `inputs` are what its models want beside the target.

    Raises the problems `too-large`, `invalid-request` and `invalid-data`, with pointers.
    """
    columns = asked.columns
    _check_sizes(asked, limits)
    _check_roles(columns, inputs)
    strays.refuse(items := _unreadable(asked.data, columns), options)
    check_id_lengths(asked.data, columns, limits)
    strays.refuse(more := _of_covariates(asked, inputs), options)
    strange = list[Fault]()
    if items or more:
        asked, strange = strays.without(asked, [*items, *more], inputs)
    data = asked.data
    check_freq(asked.freq)
    if options.resample is not None:
        check_freq(options.resample.freq, "/options/resample/freq")
    check_tz(asked.tz)
    schema = Schema(
        id=columns.id if columns.id in data else None,
        time=columns.time,
        targets=(columns.target,),
        **inputs.names,
    )
    if not asked.series:
        check_ids(data, columns, read=schema.roles)
    static_columns, faults = attributes.read(asked, inputs)
    try:
        panel, report = (None if options.resample else direct.read(asked, schema)) or _examined(
            asked, options, schema, static_columns, limits
        )
    except TooManyRowsError as error:
        filled = error.rows * len(schema.roles)
        raise too_large("input_values", maximum=limits.input_values, actual=filled) from error
    except DataError as error:
        raise problem_of_data(error, columns) from error
    limits.check_length(max((b - a for a, b in pairwise(panel.offsets.tolist())), default=0))
    panel = panel.from_first_values()  # what no value was sent for is the same as what was not sent
    if not asked.dated:
        panel = replace(panel, dated=False)
    return without(
        Data(panel, report, _unused(asked, schema), limits.warnings_listed),
        [*faults, *strays.of_series(strange, report)],
        options,
        columns,
    )


def _check_sizes(asked: Series, limits: Limits) -> None:
    """The columns, series and values of all tables against the limits."""
    data, ahead, static = asked.data, asked.future, asked.static
    for name, table in (("data", data), ("future", ahead), ("static", static)):
        limits.check_count("columns", f"/{name}", count=len(table), maximum=limits.columns)
    limits.check_size(
        series=distinct(data.get(asked.columns.id, ())),
        values=sum(map(len, (*data.values(), *ahead.values(), *static.values()))),
    )


def _unused(asked: Series, schema: Schema) -> tuple[str, ...]:
    """The places of the columns that nothing reads, in words."""
    columns = asked.columns
    read = {
        "data": {*schema.roles} - {*schema.static},
        "future": {columns.id, columns.time, *schema.known},
        "static": {columns.id, attributes.GROUP_ID, *schema.static},
    }
    return tuple(
        f"Column {place} of {table}, counted from 0,"
        for table, cells in (
            ("data", asked.data),
            ("future", asked.future),
            ("static", asked.static),
        )
        for place, name in enumerate(cells)
        if name not in read[table]
    )


def _examined(
    asked: Series, options: Options, schema: Schema, static: dict[str, pl.Series],
    limits: Limits,
) -> tuple[Panel, Report]:  # fmt: skip
    """The panel of any table, on the grid that it has or that it is asked to be gathered on."""
    data, asked_for = asked.data, options.resample
    columns = {name: column_of(name, data[name]) for name in schema.roles if name in data}
    frame, most = pl.DataFrame(columns | static), limits.input_values // len(schema.roles)
    if asked_for is None:
        return read_panel(
            frame, schema=schema, freq=asked.freq, tz=asked.tz, on_invalid=options.on_invalid,
            fill=options.fill, max_rows=most,
        )  # fmt: skip
    resample = Resample(Frequency.parse(asked_for.freq), asked_for.agg)
    return read_resampled(
        frame, schema=schema, resample=resample, tz=asked.tz, on_invalid=options.on_invalid,
        fill=options.fill, max_rows=most,
    )  # fmt: skip


def without(data: Data, faults: Sequence[Fault], options: Options, columns: Columns) -> Data:
    """`data` without the series of `faults`, or the problem of the faults if they must not be."""
    if not faults:
        return data
    found: dict[str | int | None, list[Fault]] = {}
    for fault in faults:
        found.setdefault(fault.series, []).append(fault)
    strangers = found.keys() - {entry.id for entry in data.report.series}
    if options.on_invalid == "fail" or strangers:
        raise of_faults(
            f"{len(found)} series cannot be forecast as sent. Repair them, or leave them out.",
            [item_of(fault, columns) for fault in faults],
        )
    entries = tuple(
        replace(entry, status="invalid", faults=(*entry.faults, *found[entry.id]))
        if entry.id in found
        else entry
        for entry in data.report.series
    )
    kept = [i for i, name in enumerate(data.panel.ids) if name not in found]
    report = replace(data.report, series=entries)
    return replace(data, panel=data.panel.take(kept), report=report)


@contextmanager
def placed(columns: Columns) -> Iterator[None]:
    """Gives faults their places in the request, in the form in which its tables came."""
    try:
        yield
    except DataError as error:
        raise sent(problem_of_data(error, columns), columns) from error
    except Problem as problem:
        raise sent(problem, columns) from problem.__cause__


def sent(problem: Problem, columns: Columns) -> Problem:
    """`problem` with pointers to what was sent."""
    items = [replace(item, pointer=columns.place(item.pointer)) for item in problem.errors]
    return replace(problem, errors=items)


def problem_of_data(error: DataError, columns: Columns) -> Problem:
    """The problem of faults in the data, each with its place in the request."""
    items = [item_of(fault, columns) for fault in error.faults]
    series = {fault.series for fault in error.faults if fault.series is not None}
    detail = f"{len(series)} series are invalid." if len(series) > 1 else "The data are invalid."
    return of_faults(f"{detail} Repair them, or {LEAVE}", items)


def item_of(fault: Fault, columns: Columns) -> Item:
    """A fault as an item of a problem."""
    column = fault.column
    if column is None and fault.row is not None:
        column = columns.time if fault.code in TIME_FAULTS else columns.id
    table = fault.table if isinstance(fault, strays.Stray) else "data"
    table = "future" if fault.code in FUTURE_FAULTS else table
    if fault.code == attributes.CODE or (fault.code == "covariate_missing" and fault.row is None):
        table = attributes.TABLE
    place = [table, *([column] if column is not None else [])]
    row = [fault.row] if fault.row is not None and column is not None else []
    message = fault.message
    if fault.code == "duplicate_timestamp" and columns.by_series:  # whose rows count otherwise
        message = "Same time stamp as another row of this series. Keep one row a stamp."
    return Item(message, pointer_to(*place, *row), fault.code, fault.series)


def _check_roles(columns: Columns, inputs: Inputs) -> None:
    """A column that two models read in different roles, or that has the name of a client's own."""
    uses: dict[str, str] = {}
    for use, names in inputs.names.items():
        for name in names:
            if name in uses:
                message = (
                    f"One of the models reads {name} as {uses[name]}, another as {use}. "
                    "Compare them in two requests."
                )
                raise Problem("model-incompatible", message, [Item(message, "/models")])
            uses[name] = use
    for role in ("id", "time", "target"):
        name = getattr(columns, role)
        if name in uses:
            message = (
                f"The model reads the column {name} ({uses[name]}), so it cannot be the {role}. "
                f"Name another with columns.{role}."
            )
            place = f"/columns/{role}" if role in columns.model_fields_set else ""
            raise Problem("invalid-request", message, [Item(message, place)])


def _missing(role: str, usual: str, columns: Columns) -> str:
    if role in columns.model_fields_set:
        return f"The table has no column of the name that columns.{role} says."
    return (
        f"The column for the {role} is missing. It is called {usual}, or what columns.{role} says."
    )


def check_free(
    columns: Columns,
    levels: Iterable[float],
    *,
    own: Collection[str] = (),
    roles: Sequence[str] = ("id", "time"),
) -> None:
    """Raises where the client calls a column as the answer calls a quantile or one of its `own`."""
    taken = {*own, *map(level_name, levels)}
    for role in roles:
        if getattr(columns, role) in taken:
            message = "A column of the answer is called so too. Rename this one."
            raise Problem("invalid-request", message, [Item(message, f"/columns/{role}")])


def check_ids(data: Mapping[str, Cells], columns: Columns, *, read: Collection[str]) -> None:
    """Raises where another column of the table may hold the ids than the one that is named.

    All series would be taken for one. A single one needs no ids, so a table of which every column is
    `read` is right without.
    """
    said = "id" in columns.model_fields_set and columns.id not in data
    if said and {*data} - {*read}:
        item = Item(_missing("id", "unique_id", columns), "/data", "missing_column")
        raise of_faults(strays.UNUSABLE, [item])


def check_columns(data: Mapping[str, Cells], columns: Columns) -> None:
    """Raises for missing columns, columns of several lengths, and cells of the wrong kind."""
    if items := _unreadable(data, columns):
        raise of_faults(strays.UNUSABLE, items)


def check_id_lengths(data: Mapping[str, Cells], columns: Columns, limits: Limits) -> None:
    """Raises for an id that is longer than the settings allow; beyond LONGEST_ID none is an id."""
    most = limits.id_length
    if most == LONGEST_ID:
        return
    ids = data.get(columns.id, ())
    for row, each in enumerate(ids):
        if isinstance(each, str) and len(each) > most:
            message = f"Ids have at most {most} characters here; the limit is called id_length."
            raise of_faults(
                strays.UNUSABLE, [Item(message, pointer_to("data", columns.id, row), "id_invalid")]
            )


def _unreadable(data: Mapping[str, Cells], columns: Columns) -> list[Item]:
    items = [
        Item(_missing(role, usual, columns), "/data", "missing_column")
        for role, usual, name in (("time", "ds", columns.time), ("target", "y", columns.target))
        if name not in data
    ]
    rows = len(next(iter(data.values()), ()))
    items += lengths(data, "data")
    if not items:
        items = [
            *(
                beyond(data, columns.id, "id_invalid", BEYOND_IDS)
                or misfits(data, columns.id, (str, int), "id_invalid", "Ids are text or integers.")
            ),
            *(
                beyond(data, columns.time, "timestamp_out_of_range", OUT_OF_RANGE)
                or misfits(data, columns.time, STAMPS, "timestamp_invalid",
                           "Stamps are ISO 8601 text, or all of them integers.")
            ),
            *misfits(data, columns.target, strays.NUMBERS, "non_numeric", NO_NUMBER),
        ]  # fmt: skip
    if not items and not rows:
        items = [Item("The table has no rows.", "/data", "insufficient_history")]
    return items


def _of_covariates(asked: Series, inputs: Inputs) -> list[Item]:
    """What is wrong with the covariates that the model needs; raises where columns are missing."""
    data = asked.data
    absent = [column.name for column in inputs.columns if column.name not in data]
    if absent:
        message = f"The model needs the columns {', '.join(absent)} in data"
        ahead = [column.name for column in inputs.known if column.name in absent]
        message += f", and {', '.join(ahead)} in future." if ahead else "."
        item = Item(message, "/data", "covariate_missing")
        raise Problem("future-covariates-missing", message, [item])
    items = [
        item
        for column in inputs.columns
        for item in misfits(data, column.name, kinds_of(column), "non_numeric", NO_NUMBER)
    ]
    return items + attributes.check(asked, inputs)


def check_freq(freq: str | int | None, pointer: str = "/freq") -> None:
    """Raises `invalid-request` where `freq` is none."""
    try:
        if freq is not None:
            Frequency.candidates(freq)
    except ConfigError:
        message = f"Not a frequency. Known are {EXAMPLES}, and integers."
        raise Problem("invalid-request", "freq is unknown.", [Item(message, pointer)]) from None


def check_tz(tz: str | None) -> None:
    """Raises `invalid-request` where `tz` is none."""
    try:
        if tz is not None:
            check_zone(tz)
    except ConfigError:
        message = "Not an IANA time zone, as Europe/Berlin is one."
        raise Problem("invalid-request", "tz is unknown.", [Item(message, "/tz")]) from None
