"""What comes after the data: stamps that exist, and the covariates known over the horizon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines import times
from pipelines.covariates import Covariate
from pipelines.panel import Panel
from pipelines.schema import LONE_ID
from pipelines.stamps import Offenders, read_stamps
from serving import strays
from serving.body import pointer_to
from serving.cells import STAMPS, column_of, covariate_cells, kinds_of, lengths, misfits
from serving.problems import Item, Problem, of_faults
from serving.schemas.series import Options, Series
from serving.schemas.tables import Columns
from serving.tables import Data, without
from tsformer.errors import DataError, Fault

TABLE = "future"


@dataclass(frozen=True, slots=True)
class Ahead:
    """The series of a request that have a horizon, and the covariates known over it, if any."""

    data: Data
    future: pl.DataFrame | None


def prepared(
    asked: Series, data: Data, options: Options, *, steps: int, reach: int,
    known: Sequence[Covariate],
) -> Ahead:  # fmt: skip
    """`data` without the series whose grid ends before `reach`, and `known` covariates of `steps`.

    Raises `invalid-data` and `future-covariates-missing` with pointers; with `on_invalid` skip a
    series with a fault is left out and says why.
    """
    beyond = set(_beyond(data.panel, reach))
    if beyond:
        last = _last_rows(asked, data.panel)
        message = "The horizon leaves the range of stamps, 1700 to 2200. Ask for fewer steps."
        names = [name for i, name in enumerate(data.panel.ids) if i in beyond]
        column = asked.columns.time
        faults = [Fault("timestamp_out_of_range", message, n, column, last[n]) for n in names]
        data = without(data, faults, options, asked.columns)
    if not known or not steps or not data.panel.ids:
        return Ahead(data, None)
    rows, strange = _rows(asked, data.panel, known, options)
    data = without(data, strange, options, asked.columns)
    grid = _grid(data.panel, steps)
    faults = _faults(rows, grid, data, asked.columns, known)
    data = without(data, faults, options, asked.columns)
    if not data.panel.ids:
        return Ahead(data, None)
    kept = grid.filter(pl.col("id").is_in(list(data.panel.ids))) if faults else grid
    joined = kept.join(rows, on=["id", "time"], how="left", maintain_order="left")
    return Ahead(data, named(joined, data.panel, [column.name for column in known]))


def named(rows: pl.DataFrame, panel: Panel, known: Sequence[str]) -> pl.DataFrame:
    """Rows with `id`, `time` and known columns, under the names of the panel's schema."""
    schema = panel.schema
    own = {schema.id: rows["id"]} if schema.id is not None else {}
    own |= {schema.time: rows["time"]} | {name: rows[name] for name in known}
    return pl.DataFrame(own)


# --- the range of stamps ------------------------------------------------------------------------


def _beyond(panel: Panel, steps: int) -> Sequence[int]:
    """The places of series whose last step would lie beyond the range of stamps."""
    if not panel.ids:
        return ()
    ends = panel.last
    if _reach(panel, ends, steps):
        return ()
    stamps = ends.unique().sort()  # the later a series ends, the later its last step
    low, high = 0, len(stamps) - 1
    while low < high:
        middle = (low + high) // 2
        if _reach(panel, stamps[middle : middle + 1], steps):
            low = middle + 1
        else:
            high = middle
    places: list[int] = np.flatnonzero((ends >= stamps[low]).to_numpy()).tolist()
    return places


def _reach(panel: Panel, stamps: pl.Series, steps: int) -> bool:
    """Whether all of `stamps` have so many steps after them."""
    try:
        panel.frequency.shift(stamps, np.full(len(stamps), steps))
    except DataError:
        return False
    return True


def _last_rows(asked: Series, panel: Panel) -> dict[object, int]:
    """The row of the request with the last stamp of each series."""
    cells = asked.data[asked.columns.time]
    ids = asked.data.get(asked.columns.id, [LONE_ID] * len(cells))
    stamps = read_stamps(column_of("time", cells), tz=panel.tz).values
    table = pl.DataFrame({"id": ids, "time": stamps}).with_row_index("row").drop_nulls()
    last = table.sort("time", maintain_order=True).group_by("id").last()
    return dict(zip(last["id"].to_list(), last["row"].to_list(), strict=True))


# --- known covariates ---------------------------------------------------------------------------


def _grid(panel: Panel, steps: int) -> pl.DataFrame:
    """The rows that a future table must have: `id`, `time`."""
    ids = pl.Series("id", panel.ids)
    places = np.repeat(np.arange(len(panel.ids)), steps)
    return pl.DataFrame({"id": ids.gather(places), "time": panel.following(steps)})


def _rows(
    asked: Series, panel: Panel, known: Sequence[Covariate], options: Options
) -> tuple[pl.DataFrame, list[Fault]]:
    """The future table of a request: `id`, `time`, the known columns, and the `row` of each.

    Under `skip` what cannot be read is a fault of its series; else it is raised, as is a column of
    which that is said as a whole.
    """
    table, columns = asked.future, asked.columns
    if not table:
        names = ", ".join(column.name for column in known)
        message = f"The model needs {names} over the horizon, in the table 'future'."
        raise Problem("future-covariates-missing", message, [Item(message, "", "future_missing")])
    own = [*([columns.id] if panel.schema.id is not None else [])]
    own += [] if asked.series else [columns.time]  # the steps of a series by itself are in order
    items = [
        Item(f"The column {role} is missing.", "/future", code)
        for name, role, code in (
            *((name, "of ids or stamps", "missing_column") for name in own),
            *((column.name, column.name, "covariate_missing") for column in known),
        )
        if name not in table
    ]
    items = items or lengths(table, TABLE)
    codes = {columns.id: "id_invalid", columns.time: "timestamp_invalid"}
    kinds: dict[str, tuple[type, ...]] = {columns.id: (str, int), columns.time: STAMPS}
    kinds = {name: kinds[name] for name in own} | {c.name: kinds_of(c) for c in known}
    for name in () if items else kinds:
        items += misfits(
            table, name, kinds[name], codes.get(name, "non_numeric"),
            "Of another kind than this column needs.", table=TABLE,
        )  # fmt: skip
    strays.refuse(items, options)
    faults = list[Fault]()
    if items:
        table, faults = strays.numbers_in(table, TABLE, columns, strays.kinds_in(known), items)
        asked = asked.model_copy(update={"future": table})
    if asked.series:
        return _by_position(asked, panel, known), faults
    rows, more = _read(asked, panel, known, options)
    return rows, faults + more


def _read(
    asked: Series, panel: Panel, known: Sequence[Covariate], options: Options
) -> tuple[pl.DataFrame, list[Fault]]:
    """The rows by their stamps, and under `skip` those without a good one as faults."""
    table, columns = asked.future, asked.columns
    cells = table[columns.time]
    stamps = read_stamps(column_of(columns.time, cells), tz=panel.tz)
    place = pointer_to(TABLE, columns.time)
    found = stamps.offenders
    items = [Item(one.message, f"{place}/{int(one.rows[0])}", one.code) for one in found]
    skipped = [] if options.on_invalid == "fail" else _unstamped(found, asked)
    items = [] if skipped else items
    own = panel.table["time"].dtype
    if not items and stamps.values.dtype != own:
        items = [Item("Give stamps as those of data are.", place, "timestamp_invalid")]
    lone = [LONE_ID] * len(cells)
    ids = column_of("id", table[columns.id] if panel.schema.id else lone)
    if not items and ids.dtype != pl.Series(panel.ids).dtype:
        place = pointer_to(TABLE, columns.id)
        items = [Item("Give ids as those of data are.", place, "id_invalid")]
    if items:
        raise of_faults("The future table cannot be used as sent.", items)
    values = {column.name: covariate_cells(column, table[column.name]) for column in known}
    frame = pl.DataFrame({"id": ids, "time": stamps.values, **values})
    return frame.with_row_index("row"), skipped


def _unstamped(found: Sequence[Offenders], asked: Series) -> list[Fault]:
    """The rows whose stamp cannot be used, as faults of their series."""
    columns, faults = asked.columns, list[Fault]()
    ids = asked.future.get(columns.id) if columns.id in asked.data else None
    for one in found:
        rows = one.rows.tolist()
        faults += strays.faults_of(rows, ids, TABLE, columns.time, one.code, one.message)
    return faults


def _by_position(asked: Series, panel: Panel, known: Sequence[Covariate]) -> pl.DataFrame:
    """The rows of series that came by themselves: the n-th is the n-th step after its end."""
    lengths = [len(next(iter(one.future.values()), ())) for one in asked.series]
    names = [LONE_ID] if panel.schema.id is None else [one.unique_id for one in asked.series]
    found = {name: place for place, name in enumerate(panel.ids)}
    places = np.repeat([found.get(name, -1) for name in names], lengths)  # type: ignore[arg-type]
    starts = np.cumsum(lengths) - lengths
    steps = 1 + np.arange(len(places)) - np.repeat(starts, lengths)
    kept = np.flatnonzero(places >= 0)
    values = {c.name: covariate_cells(c, asked.future[c.name]).gather(kept) for c in known}
    stamps = panel.after(places[kept], steps[kept])
    own = {"row": kept, "id": pl.Series(panel.ids).gather(places[kept]), "time": stamps}
    return pl.DataFrame(own | values)


def _faults(
    rows: pl.DataFrame, grid: pl.DataFrame, data: Data, columns: Columns,
    known: Sequence[Covariate],
) -> list[Fault]:  # fmt: skip
    """Rows that are missing, rows that nobody asked for, and cells without a number."""
    on = ["id", "time"]
    faults = []
    absent = grid.join(rows, on=on, how="anti", maintain_order="left")
    stamps = absent["time"]
    texts = stamps if stamps.dtype.is_integer() else times.text(stamps, data.panel.tz)
    for name, stamp in zip(absent["id"].to_list(), texts.to_list(), strict=True):
        faults.append(Fault("future_missing", f"No row for {stamp}.", name))
    invalid = {entry.id for entry in data.report.series if entry.status == "invalid"}
    twice = rows.filter(~pl.struct(on).is_first_distinct())
    extra = pl.concat([rows.join(grid, on=on, how="anti", maintain_order="left"), twice])
    message = "This row is not one of the steps after the data, each once. Leave it out."
    for name, row in extra.select("id", "row").iter_rows():
        if name not in invalid:
            faults.append(Fault("future_extra", message, name, columns.time, row))
    within = rows.join(grid, on=on, how="semi", maintain_order="left")
    for column in (covariate.name for covariate in known):
        for name, row in within.filter(pl.col(column).is_null()).select("id", "row").iter_rows():
            faults.append(Fault("covariate_missing", "No value.", name, column, row))
    return faults
