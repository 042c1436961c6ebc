"""How the forecasts of each version turned out: recorded forecasts against the actuals since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sa
from numpy.typing import NDArray

from pipelines.actuals import happened
from pipelines.recording import matched, numbers, steps_of
from pipelines.store import Store
from pipelines.store_tables import ACTUAL, FORECAST_RECORD
from tsformer import metrics
from tsformer.metrics import Metric, Scored

Floats = NDArray[np.float64]

FORECASTS_AT_ONCE = 2_000
SUMMED: Mapping[str, Metric] = {
    "mae": metrics.MAE, "rmse": metrics.RMSE, "mase": metrics.MASE, "wql": metrics.WQL,
}  # fmt: skip
PER_SERIES = ("mase",)  # finished for each series, then the mean, as in the leaderboard


@dataclass(frozen=True, slots=True)
class Live:
    """What became of the forecasts of one version: `points` of them have an actual.

    `coverage` has the share of actuals inside each central interval that was forecast, by its
    nominal share. `fallbacks` are the points that a fallback answered. What is undefined is left
    out.
    """

    version: str
    points: int
    series: int
    fallbacks: int
    metrics: Mapping[str, float]
    coverage: Mapping[str, float]


def live(
    store: Store, model: str, *, after_us: int, until_us: int, version: str | None = None
) -> tuple[Live, ...]:
    """The versions of `model`, newest first, on actuals after one stamp up to another."""
    wanted = FORECAST_RECORD.c.model == model
    wanted &= (FORECAST_RECORD.c.last_us > after_us) & (FORECAST_RECORD.c.first_us <= until_us)
    if version is not None:
        wanted &= FORECAST_RECORD.c.version == version
    query = sa.select(FORECAST_RECORD).where(wanted)
    sums = []
    with store.read() as connection:
        found = connection.execute(query.execution_options(yield_per=FORECASTS_AT_ONCE))
        for part in found.partitions():
            ids = sorted({row.unique_id for row in part})
            when = ACTUAL.c.ds_us.between(after_us + 1, until_us)
            known = happened(connection, model, ACTUAL.c.unique_id.in_(ids) & when)
            for levels, rows in _by_levels(part).items():
                sums.append(_sums(rows, json.loads(levels), known))
    if not sums:
        return ()
    whole = pl.concat(sums, how="diagonal")
    lives = [_finished(str(name), part) for (name,), part in whole.group_by("version")]
    return tuple(sorted(lives, key=lambda one: int(one.version), reverse=True))


def _by_levels(rows: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.levels, []).append(row)
    return found


def _sums(rows: Sequence[Any], levels: Sequence[float], known: pl.DataFrame) -> pl.DataFrame:
    """The two sums of each metric over the steps that have an actual, by version and series."""
    steps = steps_of(rows).with_row_index("step")
    met = matched(steps, known)
    step, row = met["step"].to_numpy(), met["row"].to_numpy()
    every = np.concatenate([numbers(row.quantiles) for row in rows]).reshape(len(steps), -1)
    scales = np.array([row.scale or 0.0 for row in rows])

    def cells(values: Floats) -> Floats:
        return values.reshape(len(met), 1, 1)

    scored = Scored(
        point=cells(np.concatenate([numbers(row.point) for row in rows])[step]),
        actual=cells(met["y"].to_numpy()),
        observed=np.ones((len(met), 1, 1), dtype=np.bool_),
        quantiles=every[step].reshape(len(met), 1, 1, len(levels)),
        levels=tuple(levels),
        absolute_scale=cells(scales[row]),
    )
    sums = {
        f"{name} {part}": values
        for name, metric in _measured(levels).items()
        for part, values in zip(("sum", "weight"), metric.sums(scored, by=("window",)), strict=True)
    }
    about = {
        "version": pl.Series([one.version for one in rows], dtype=pl.String).gather(row),
        "unique_id": met["unique_id"],
        "fallback": np.array([one.fallback is not None for one in rows])[row],
        "points": np.ones(len(met), dtype=np.int64),
    }
    return pl.DataFrame(about | sums).group_by("version", "unique_id").agg(pl.all().sum())


def _measured(levels: Sequence[float]) -> dict[str, Metric]:
    """What a forecast with these quantile levels can be scored by."""
    named = {name: metric for name, metric in SUMMED.items() if levels or name != "wql"}
    return named | {f"coverage {share:g}": metrics.coverage(share) for share in intervals(levels)}


def intervals(levels: Sequence[float]) -> tuple[float, ...]:
    """The shares of the central intervals whose both ends are among `levels`."""
    whole = {round(level, 6) for level in levels}
    return tuple(
        round(1 - 2 * low, 6) for low in sorted(whole) if low < 0.5 and round(1 - low, 6) in whole
    )


def _finished(version: str, sums: pl.DataFrame) -> Live:
    series = sums.group_by("unique_id").agg(pl.all().exclude("version").sum())
    named = [name.removesuffix(" sum") for name in series.columns if name.endswith(" sum")]
    values = {name: _value(series, name) for name in named}
    defined = {name: value for name, value in values.items() if np.isfinite(value)}
    return Live(
        version=version,
        points=int(series["points"].sum()),
        series=len(series),
        fallbacks=int(series["fallback"].sum()),
        metrics={name: value for name, value in defined.items() if name in SUMMED},
        coverage={
            name.removeprefix("coverage "): value
            for name, value in defined.items()
            if name not in SUMMED
        },
    )


def _value(series: pl.DataFrame, name: str) -> float:
    metric = SUMMED.get(name, metrics.MAE)  # a coverage is a mean, as an absolute error is
    sums = series.select(f"{name} sum", f"{name} weight").to_numpy().T  # [2, series]
    if name not in PER_SERIES:
        return float(metric.value(sums.sum(axis=1)))
    values = metric.value(sums[:, sums[1] > 0])
    return float(values.mean()) if len(values) else float("nan")
