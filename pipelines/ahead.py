"""The inputs of some series at their ends: over the context, and ahead where they are known.

Row by row what training read (`pipelines.covariates`), so a model sees one meaning of a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.course import Course
from pipelines.covariates import Covariate, Inputs, calendar, known_rows, past_rows, static_rows
from pipelines.panel import Panel
from pipelines.query import Floats, Floats32, Query
from pipelines.stamps import read_stamps
from tsformer.errors import DataError, Fault


def course(
    panel: Panel,
    inputs: Inputs,
    *,
    context: int,
    horizon: int,
    wanted: int,
    future: pl.DataFrame | None = None,
    unit: Floats | None = None,
    series: NDArray[np.int64] | None = None,
    width: int = 1,
) -> Course:
    """What a model is asked about the series of `panel`: a window for each `width` of them.

    As many blocks of `horizon` steps as the `wanted` steps take. `future` (`series id`, `time` and
    the known columns) must cover the `wanted` steps; `unit` `[series, 2]` and the numbers of the
    `series` are passed on. Raises DataError where a covariate is missing, or where series that
    share a window do not end together or differ in what they share.
    """
    blocks = -(-wanted // horizon)
    back = context + max(inputs.lags, default=0)
    alone = Query(np.empty((0, back, 1)))
    if panel.ids:
        alone = Query(
            past=Query.pasts(panel, back)[..., None],
            known=known_ahead(
                panel,
                inputs,
                context=context,
                horizon=blocks * horizon,
                wanted=wanted,
                future=future,
            ),
            covariates=past_tail(panel, inputs, context=context),
            static=_variate(static_rows(panel, inputs), 1),
            series=_variate(series, 1),
            unit=_variate(unit, 2),
        )
    return Course(_windows(alone, panel, context, width), context, horizon, blocks, inputs.lags)


def _variate(values: np.ndarray | None, axis: int) -> np.ndarray | None:
    return None if values is None else np.expand_dims(values, axis)


def _windows(alone: Query, panel: Panel, context: int, width: int) -> Query:
    """The series, of which `width` after each other share a window."""
    if width == 1 or not len(alone):
        return alone
    if width == len(alone):
        return _joined(alone, panel, context)
    return Query.stack(
        [
            _joined(
                alone[first : first + width], panel.take([*range(first, first + width)]), context
            )
            for first in range(0, len(alone), width)
        ]
    )


def _joined(alone: Query, panel: Panel, context: int) -> Query:
    """The series as the variates of one window; they share one grid and its covariates."""
    last = [name for name, end in zip(panel.ids, panel.ends, strict=True) if end != panel.ends[0]]
    if last:
        message = (
            f"It does not end when {panel.ids[0]} does. Series of one window end together: cut them "
            "to their last common stamp, or forecast them with a model that reads one at a time."
        )
        faults = [Fault("group_misaligned", message, series=name) for name in last]
        raise DataError("The series of one window do not end together.", faults)
    return Query(
        past=_side_by_side(alone.past, 2),
        known=_shared(alone.known, panel, context),
        covariates=_shared(alone.covariates, panel, context),
        static=None if alone.static is None else _side_by_side(alone.static, 1),
        series=None if alone.series is None else _side_by_side(alone.series, 1),
        unit=None if alone.unit is None else _side_by_side(alone.unit, 2),
    )


def _side_by_side(values: np.ndarray, axis: int) -> np.ndarray:
    """`values` `[series, ..., 1, ...]` as `[1, ..., series, ...]`, the series on `axis`."""
    return np.moveaxis(values.squeeze(axis), 0, axis - 1)[None]


def _shared(values: Floats32 | None, panel: Panel, context: int) -> Floats32 | None:
    """The covariates of the longest series, with which each agrees since it begins."""
    if values is None:
        return None
    begins = context - np.minimum(np.diff(panel.offsets), context)
    longest = int(begins.argmin())
    there = np.arange(values.shape[1]) >= begins[:, None]  # [series, time (+ horizon)]
    differs = ((values != values[longest]).any(axis=2) & there).any(axis=1)
    if differs.any():
        message = (
            f"Its covariates differ from those of {panel.ids[longest]}. Series of one window share "
            "them: give them the same values at each step, or forecast them with a model that "
            "reads one at a time."
        )
        apart = [panel.ids[place] for place in np.flatnonzero(differs)]
        raise DataError(
            message, [Fault("group_misaligned", message, series=name) for name in apart]
        )
    return values[longest : longest + 1]


def known_ahead(
    panel: Panel,
    inputs: Inputs,
    *,
    context: int,
    horizon: int,
    wanted: int,
    future: pl.DataFrame | None,
) -> Floats32 | None:
    """Columns known over context and horizon `[series, time + horizon, column]`, or None.

    `future` (`series id`, `time` and the known columns) must cover the `wanted` first steps.
    What lies before the history or after the wanted steps counts as the training mean, or as
    the unknown category.
    """
    if not inputs.features and not inputs.known:
        return None
    recent = _recent(panel, context)
    rows = known_rows(recent, inputs)
    assert rows is not None
    following = panel.following(horizon)
    ahead = _cells(panel, inputs.known, wanted, horizon, following, future)
    made = _laid(rows, recent, context, horizon)
    clock = calendar(panel, inputs, following)
    made[:, context:, : clock.shape[1]] = clock.reshape(len(panel.ids), horizon, -1)
    for k, column in enumerate(inputs.known, start=clock.shape[1]):
        numbers = column.numbers(ahead[column.name])
        made[:, context : context + wanted, k] = numbers.reshape(len(panel.ids), wanted)
    return made


def past_tail(panel: Panel, inputs: Inputs, *, context: int) -> Floats32 | None:
    """Columns known to the cutoff `[series, time, column]`, or None; 0 before the history."""
    if not inputs.past:
        return None
    recent = _recent(panel, context)
    rows = past_rows(recent, inputs)
    assert rows is not None
    return _laid(rows, recent, context, 0)


def _recent(panel: Panel, context: int) -> Panel:
    """The last `context` rows of each series, or all that it has."""
    firsts = np.repeat(panel.offsets[1:] - context, np.diff(panel.offsets))
    kept = np.arange(len(panel.table)) >= firsts
    return replace(panel, table=panel.table.filter(pl.Series(kept, dtype=pl.Boolean)))


def _laid(rows: Floats32, recent: Panel, context: int, horizon: int) -> Floats32:
    """`rows` `[row, column]` as `[series, time + horizon, column]`, ending with the context."""
    made = np.zeros((len(recent.ids), context + horizon, rows.shape[1]), dtype=np.float32)
    lengths = np.diff(recent.offsets)
    steps = context + np.arange(len(rows)) - np.repeat(recent.offsets[1:], lengths)
    made[np.repeat(np.arange(len(recent.ids)), lengths), steps] = rows
    return made


def warnings(
    panel: Panel,
    inputs: Inputs,
    *,
    context: int,
    horizon: int,
    wanted: int,
    future: pl.DataFrame | None,
) -> tuple[Fault, ...]:
    """What the reader of a forecast must know of its inputs.

    Strange words among those that are read, lags out of reach, and what later blocks do not know.
    """
    faults = []
    for column, cells in _categories(panel, inputs, context, wanted, future):
        strange = sorted({word for part in cells for word in column.strangers(part)})
        if strange:
            message = (
                f"{column.name}: {', '.join(strange[:3])}{' ...' * (len(strange) > 3)} did not "
                "occur in training; forecast as the unknown category."
            )
            faults.append(Fault("unknown_category", message, count=len(strange)))
    if inputs.past and wanted > horizon and panel.ids:
        message = (
            f"{', '.join(inputs.names['past'])}: not known after the history; for the steps after "
            f"the first {horizon} what is missing counts as the training mean, or as unknown."
        )
        faults.append(Fault("past_covariates_masked", message))
    rows = np.diff(panel.offsets)
    for lag in inputs.lags:
        lacking = np.flatnonzero(np.minimum(lag - rows, wanted) > 0)
        for place in lacking:
            message = (
                f"The history of {rows[place]} rows does not reach {lag} steps back from every "
                "step; what is missing counts as the level of the series."
            )
            faults.append(Fault("history_padded", message, series=panel.ids[place]))
    return tuple(faults)


def _categories(
    panel: Panel, inputs: Inputs, context: int, wanted: int, future: pl.DataFrame | None
) -> Iterator[tuple[Covariate, list[pl.Series]]]:
    """Every categorical column and the cells of it that are read, in the history and ahead."""
    known, past, static = (
        [column for column in columns if column.size]
        for columns in (inputs.known, inputs.past, inputs.static)
    )
    recent = _recent(panel, context).table if known or past else panel.table
    ahead: dict[str, pl.Series] = {}
    if known and panel.ids:
        ahead = _cells(panel, known, wanted, wanted, panel.following(wanted), future)
    for column in (*known, *past):
        yield column, [recent[column.name], *(ahead[n] for n in ahead if n == column.name)]
    for column in static:
        if panel.static is not None:
            yield column, [panel.static[column.name]]


# --- the table of the future --------------------------------------------------------------------


def _cells(
    panel: Panel,
    known: Sequence[Covariate],
    wanted: int,
    horizon: int,
    following: pl.Series,
    future: pl.DataFrame | None,
) -> dict[str, pl.Series]:
    """The cells of each known column over the `wanted` steps, series after series.

    `following` are the stamps of `horizon` steps. Raises DataError where a step has no row, two
    rows, or a row without a value.
    """
    if not known:
        return {}
    names = [column.name for column in known]
    if future is None:
        raise _missing(
            f"The model needs {', '.join(names)} over the horizon; no future table came."
        )
    schema = panel.schema
    on = {"id": schema.id} if schema.id else {}
    on |= {"time": schema.time}
    absent = [name for name in (*on.values(), *names) if name not in future.columns]
    if absent:
        raise _missing(f"The future table lacks the column {', '.join(absent)}.")
    ids = pl.Series(panel.ids)
    places = np.repeat(np.arange(len(ids)), horizon)
    grid = pl.DataFrame({"id": ids.gather(places), "time": following}).filter(
        pl.Series(np.tile(np.arange(horizon) < wanted, len(ids)))
    )
    own = {"time": read_stamps(future[schema.time], tz=panel.tz).values.cast(following.dtype)}
    if schema.id:
        own["id"] = _ids(future[schema.id], ids.dtype)
    rows = pl.DataFrame(own).with_row_index("row")
    joined = grid.join(rows, on=[*on], how="left", maintain_order="left_right")
    cells = {name: future[name].gather(joined["row"]) for name in names}
    faults = _faults(joined, cells)
    if faults:
        raise DataError("The future table does not have each step once, with values.", faults)
    return cells


def _ids(ids: pl.Series, kind: pl.DataType) -> pl.Series:
    """The ids of a future table in the type of those of the data; DataError if they have none."""
    if ids.dtype in (pl.Categorical, pl.Enum):
        ids = ids.cast(pl.String)
    if ids.dtype.is_integer() and kind.is_integer():
        ids = ids.cast(kind)
    if ids.dtype != kind:
        message = f"Its ids are {ids.dtype}, those of the data {kind}. Give both in one type."
        raise DataError(
            "The future table cannot be used.", [Fault("id_invalid", message, column=ids.name)]
        )
    return ids


def _faults(joined: pl.DataFrame, cells: dict[str, pl.Series]) -> list[Fault]:
    """Steps (`id`, `time`) without a `row` of the future table, with two, or without a value."""
    faults = [
        Fault("future_missing", f"No row for {time}.", series=name)
        for name, time in joined.filter(pl.col("row").is_null()).select("id", "time").iter_rows()
    ]
    twice = joined.filter(~pl.struct("id", "time").is_first_distinct())
    for name, time, row in twice.select("id", "time", "row").iter_rows():
        message = f"Another row for {time}. Leave one out."
        faults.append(Fault("future_extra", message, series=name, row=row))
    for column, values in cells.items():
        empty = values.is_null() | (values.is_nan() if values.dtype.is_float() else False)
        holes = joined.filter(empty & joined["row"].is_not_null())
        for name, time, row in holes.select("id", "time", "row").iter_rows():
            message = f"No value for {time}. Give one."
            faults.append(Fault("covariate_missing", message, series=name, column=column, row=row))
    return faults


def _missing(message: str) -> DataError:
    return DataError(message, [Fault("future_missing", message)])
