"""Held-out rows: kept back before any model sees the series, then compared with the forecasts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.features.categories import as_words
from pipelines.panel import Panel, read_panel
from pipelines.schema import Schema
from pipelines.versions import FALLBACK
from serving.ahead import named
from serving.answers import ModelAnswer
from serving.members import number_columns
from serving.models import Model
from tsformer.metrics import MAE, MASE, RMSE, RMSSE, SMAPE, WQL, Metric, Scored, coverage
from tsformer.metrics import seasonal_scale as in_sample_error

Floats = NDArray[np.float64]
METRICS = (MAE, RMSE, MASE, RMSSE, SMAPE, WQL)
BY_SERIES = ("rmsse",)  # a root for each series, then their mean, as the M5 competition has it


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The series without their last rows, and those rows.

    `context` has the series that have any value left, of `series` that there were; `empty` names
    the others. `actuals` `[context series, holdout]` is NaN where missing. `future` holds the
    covariates known after the context, if there are any.
    """

    series: int
    context: Panel
    actuals: Floats
    empty: tuple[str | int, ...] = ()
    future: pl.DataFrame | None = None


def hold_out(panel: Panel, rows: int, *, fill: str, future: pl.DataFrame | None = None) -> HeldOut:
    """`panel` without the last `rows` rows of each series.

    `panel` must not be filled: what is held out would leak into the context. `future` are the
    covariates after `panel`; those of the held-out rows come before them.
    """
    ends = np.repeat(panel.offsets[1:], np.diff(panel.offsets))
    left = ends - np.arange(len(panel.table)) > rows
    trimmed = replace(panel, table=panel.table.filter(pl.Series(left, dtype=pl.Boolean)))
    seen = np.zeros(len(panel.ids), dtype=bool)
    seen[trimmed.table.filter(pl.col("y").is_not_null())["series"].to_numpy()] = True
    kept = np.flatnonzero(seen).tolist()
    ends = panel.offsets[1:][kept]
    actuals = panel.target[ends[:, None] - rows + np.arange(rows)]
    return HeldOut(
        len(panel.ids),
        filled(trimmed.take(kept), fill),
        actuals,
        tuple(name for name, any_seen in zip(panel.ids, seen, strict=True) if not any_seen),
        _known(panel, ~left, future),
    )


def _known(
    panel: Panel, held: NDArray[np.bool_], future: pl.DataFrame | None
) -> pl.DataFrame | None:
    """The known covariates of the held-out rows, and then those after them."""
    known = panel.schema.known
    if not known or not panel.ids:
        return future
    rows = panel.table.filter(pl.Series(held, dtype=pl.Boolean))
    of_rows = rows.with_columns(id=pl.Series(panel.ids).gather(rows["series"]))
    ahead = named(of_rows, panel, known)
    if future is None:
        return ahead
    alike = [
        table.with_columns(_alike(table[name], other[name]) for name in known)
        for table, other in ((ahead, future), (future, ahead))
    ]
    return pl.concat(alike)


def _alike(cells: pl.Series, other: pl.Series) -> pl.Series:
    """`cells` in the type that they share with `other`: words where one of them is text."""
    if cells.dtype == other.dtype:
        return cells
    return as_words(cells) if pl.String in (cells.dtype, other.dtype) else cells.cast(pl.Float64)


def filled(panel: Panel, fill: str) -> Panel:
    """`panel`, which was read with missing rows as missing values, filled."""
    if fill in ("none", "mask") or not panel.ids:
        return panel
    own = panel.schema
    schema = Schema(id="series", time="time", targets=("y",), known=own.known, past=own.past)
    made, _ = read_panel(
        panel.table, schema=schema, freq=str(panel.frequency), tz=panel.tz, fill=fill
    )
    return replace(made, ids=panel.ids, schema=panel.schema, static=panel.static, dated=panel.dated)


def numbers(found: ModelAnswer, ids: Sequence[str | int], levels: Sequence[float]) -> Floats:
    """A model's numbers `[series, horizon, 1 + level]` for `ids`; NaN where it has none."""
    table, names = found.forecast.table, number_columns(levels)
    values = table.select(names).to_numpy().reshape(-1, found.horizon, len(names))
    answered = [entry.unique_id for entry in found.forecast.series if entry.rows]
    place = {name: row for row, name in enumerate(answered)}
    aligned = np.full((len(ids), found.horizon, len(names)), np.nan)
    for row, name in enumerate(ids):
        if name in place:
            aligned[row] = values[place[name]]
    return aligned


def leaderboard(
    held: HeldOut, answers: Sequence[ModelAnswer], levels: Sequence[float]
) -> list[dict[str, Any]]:
    """A row a model, by MASE and then by name; a metric that is undefined is null."""
    ascending, panel = sorted(levels), held.context
    scales = scales_of(panel, np.diff(panel.offsets))
    rows = [_row(held, found, ascending, scales) for found in answers]
    baseline = next(
        (row["metrics"]["mase"] for row in rows if row["model"]["name"] == FALLBACK), None
    )
    for row in rows:
        row["skill"] = skill(row["metrics"]["mase"], baseline)
    return ranked(rows)


def _row(
    held: HeldOut, found: ModelAnswer, levels: Sequence[float], scales: tuple[Floats, Floats]
) -> dict[str, Any]:
    values = numbers(found, held.context.ids, levels)[:, : held.actuals.shape[1]]
    values = values.swapaxes(0, 1)[None]  # [1, step, series, 1 + level]
    actual = held.actuals.T[None]  # [1, step, series]
    entries = found.forecast.series
    return row_of(
        found.model,
        scored_of(values, actual, levels=levels, scales=scales),
        failed=held.series - sum(entry.rows > 0 for entry in entries),
        fallbacks=sum(entry.fallback is not None for entry in entries),
        model_ms=found.model_ms,
    )


# --- of all leaderboards --------------------------------------------------------------------------


def scales_of(panel: Panel, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The in-sample errors of seasonal naive, absolute and squared, `[series]`: of its first `rows`."""
    season = panel.frequency.season
    pasts = [
        panel.target[first : first + count, None]
        for first, count in zip(panel.offsets[:-1], rows, strict=True)
    ]
    absolute, square = (
        np.array([in_sample_error(past, season, power=power)[0] for past in pasts])
        for power in (1, 2)
    )
    return absolute, square


def scored_of(
    values: Floats, actual: Floats, *, levels: Sequence[float], scales: tuple[Floats, Floats]
) -> Scored:
    """Forecasts `[fold, step, series, 1 + level]` beside what came: a window a fold, series as variates.

    NaN is no forecast, or no actual.
    """
    absolute, square = scales
    return Scored(
        point=np.nan_to_num(values[..., 0]),
        actual=np.nan_to_num(actual),
        observed=np.isfinite(actual) & np.isfinite(values[..., 0]),
        quantiles=np.nan_to_num(values[..., 1:]) if levels else None,
        levels=tuple(levels),
        absolute_scale=absolute,
        square_scale=square,
    )


def row_of(
    model: Model, scored: Scored, *, failed: int, fallbacks: int, model_ms: float
) -> dict[str, Any]:
    """The row of a model: what is undefined is null; an interval needs both of its levels."""
    folds, steps, _ = scored.observed.shape
    levels = scored.levels
    nominals = [round(1 - 2 * level, 4) for level in levels if level < 0.5]
    paired = [n for n in nominals if round((1 + n) / 2, 4) in levels]
    return {
        "model": model.members(),
        "scope": {
            "series": int(scored.observed.any(axis=(0, 1)).sum()),
            "folds": folds,
            "h": steps,
            "points": int(scored.observed.sum()),
        },
        "failed_series": failed,
        "fallback_series": fallbacks,
        "metrics": {m.name: value_of(m, scored) for m in METRICS if m is not WQL or levels},
        "coverage": {f"{n:g}": value_of(coverage(n), scored) for n in paired},
        "seconds": {"fit": 0.0, "predict": round(model_ms / 1000, 4)},
    }


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows by MASE, the undefined last, and then by name."""

    def place(row: dict[str, Any]) -> tuple[float, str]:
        mase = row["metrics"]["mase"]
        return math.inf if mase is None else mase, row["model"]["name"]

    return [{"rank": rank, **row} for rank, row in enumerate(sorted(rows, key=place), start=1)]


def value_of(metric: Metric, scored: Scored) -> float | None:
    """The metric over all observed points; None where it is undefined."""
    by = ("variate",) if metric.name in BY_SERIES else ()
    values = metric.value(metric.sums(scored, by=by))
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else None


def skill(mase: float | None, baseline: float | None) -> dict[str, Any] | None:
    """How much smaller the error is than that of seasonal naive; None where one is undefined."""
    if mase is None or not baseline:
        return None
    return {"versus": FALLBACK, "metric": "mase", "value": 1 - mase / baseline}
