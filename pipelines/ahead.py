"""The inputs of some series at their ends: over the context, and ahead where they are known.

Row by row what training read (`pipelines.covariates`), so a model sees one meaning of a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.course import Course
from pipelines.covariates import Covariate, Inputs, past_rows, static_rows
from pipelines.features import known_features
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
    joint: bool = False,
) -> Course:
    """What a model is asked about the series of `panel`: a window each, or one for all if `joint`.

    As many blocks of `horizon` steps as the `wanted` steps take. `future` (`series id`, `time` and the known columns) must
    cover the `wanted` steps; `unit` `[series, 2]` and the numbers of the `series` are passed on. Raises DataError where a covariate is missing, or where
    series that share a window do not end together or differ in what they share.
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
    whole = _joined(alone, panel) if joint and len(alone) > 1 else alone
    return Course(whole, context, horizon, blocks, inputs.lags)


def _variate(values: np.ndarray | None, axis: int) -> np.ndarray | None:
    return None if values is None else np.expand_dims(values, axis)


def _joined(alone: Query, panel: Panel) -> Query:
    """The series as the variates of one window; they share one grid and its covariates."""
    last = [name for name, end in zip(panel.ids, panel.ends, strict=True) if end != panel.ends[0]]
    if last:
        message = f"It does not end when {panel.ids[0]} does. Series of one window end together."
        faults = [Fault("group_misaligned", message, series=name) for name in last]
        raise DataError("The series of one window do not end together.", faults)
    return Query(
        past=_side_by_side(alone.past, 2),
        known=_shared(alone.known, panel),
        covariates=_shared(alone.covariates, panel),
        static=None if alone.static is None else _side_by_side(alone.static, 1),
        series=None if alone.series is None else _side_by_side(alone.series, 1),
        unit=None if alone.unit is None else _side_by_side(alone.unit, 2),
    )


def _side_by_side(values: np.ndarray, axis: int) -> np.ndarray:
    """`values` `[series, ..., 1, ...]` as `[1, ..., series, ...]`, the series on `axis`."""
    return np.moveaxis(values.squeeze(axis), 0, axis - 1)[None]


def _shared(values: Floats32 | None, panel: Panel) -> Floats32 | None:
    if values is None:
        return None
    if (values != values[0]).any():
        place = int((values != values[0]).any(axis=(1, 2)).argmax())
        message = (
            f"Its covariates differ from those of {panel.ids[0]}. Series of one window share them."
        )
        raise DataError(message, [Fault("group_misaligned", message, series=panel.ids[place])])
    return values[:1]


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
    following = panel.following(horizon)
    ahead = _future_columns(panel, inputs.known, wanted, horizon, following, future)
    clocks = len(inputs.known_sizes) - len(inputs.known)
    made = np.zeros((len(panel.ids), context + horizon, len(inputs.known_sizes)), dtype=np.float32)
    for place, tail in enumerate(_tails(panel, context)):
        stamps = [panel.table["time"][tail], following[place * horizon : (place + 1) * horizon]]
        clock = known_features(inputs.features, pl.concat(stamps), panel.frequency)
        rows = tail.stop - tail.start
        made[place, context - rows :, :clocks] = clock
        for k, column in enumerate(inputs.known, start=clocks):
            history = column.numbers(panel.table[column.name][tail])
            made[place, context - rows : context, k] = history
            made[place, context : context + wanted, k] = ahead[column.name][place]
    return made


def past_tail(panel: Panel, inputs: Inputs, *, context: int) -> Floats32 | None:
    """Columns known to the cutoff `[series, time, column]`, or None; 0 before the history."""
    rows = past_rows(panel, inputs)
    if rows is None:
        return None
    made = np.zeros((len(panel.ids), context, rows.shape[1]), dtype=np.float32)
    for place, tail in enumerate(_tails(panel, context)):
        made[place, context - (tail.stop - tail.start) :] = rows[tail]
    return made


def warnings(
    panel: Panel, inputs: Inputs, *, wanted: int, future: pl.DataFrame | None
) -> tuple[Fault, ...]:
    """What the reader of a forecast must know of its inputs: strange words, lags out of reach."""
    faults = []
    for column, values in _categories(panel, inputs, future):
        strange = column.strangers(values)
        if strange:
            message = (
                f"{column.name}: {', '.join(strange[:3])}{' ...' * (len(strange) > 3)} did not "
                "occur in training; forecast as the unknown category."
            )
            faults.append(Fault("unknown_category", message, count=len(strange)))
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
    panel: Panel, inputs: Inputs, future: pl.DataFrame | None
) -> Iterator[tuple[Covariate, pl.Series]]:
    """Every categorical column and its cells, in the history and ahead."""
    for use, table in (
        ("known", panel.table), ("known", future), ("past", panel.table), ("static", panel.static)
    ):  # fmt: skip
        for column in getattr(inputs, use):
            if column.size and table is not None:
                yield column, table[column.name]


def _tails(panel: Panel, context: int) -> Iterator[slice]:
    """The last `context` rows of each series, or all that it has."""
    for start, end in zip(panel.offsets[:-1], panel.offsets[1:], strict=True):
        yield slice(int(max(start, end - context)), int(end))


def _future_columns(
    panel: Panel,
    known: Sequence[Covariate],
    wanted: int,
    horizon: int,
    following: pl.Series,
    future: pl.DataFrame | None,
) -> dict[str, Floats]:
    """Each known column over the wanted steps `[series, step]`; every place must have a row."""
    if not known:
        return {}
    names = [column.name for column in known]
    if future is None:
        raise _missing(
            f"The model needs {', '.join(names)} over the horizon; no future table came."
        )
    named = {panel.schema.time: "time"} | ({panel.schema.id: "id"} if panel.schema.id else {})
    absent = [name for name in (*named, *names) if name not in future.columns]
    if absent:
        raise _missing(f"The future table lacks the column {', '.join(absent)}.")
    places = np.repeat(np.arange(len(panel.ids)), horizon)
    grid = pl.DataFrame({"id": pl.Series(panel.ids).gather(places), "time": following}).filter(
        pl.Series(np.tile(np.arange(horizon) < wanted, len(panel.ids)))
    )
    stamps = read_stamps(future[panel.schema.time], tz=panel.tz).values
    rows = future.rename(named).with_columns(
        stamps.cast(following.dtype).alias("time"), pl.lit(value=True).alias("came")
    )
    joined = grid.join(
        rows.unique([*named.values()], keep="last"),
        on=[*named.values()],
        how="left",
        maintain_order="left",
    )
    lacking = joined.filter(pl.col("came").is_null())
    if len(lacking):
        first = lacking.row(0, named=True)
        raise DataError(
            f"{len(lacking)} rows of the future table are missing.",
            [Fault("future_missing", f"No row for {first['time']}.", series=first["id"])],
        )
    shape = (len(panel.ids), wanted)
    return {column.name: column.numbers(joined[column.name]).reshape(shape) for column in known}


def _missing(message: str) -> DataError:
    return DataError(message, [Fault("future_missing", message)])
