"""Rolling origins: every model forecasts the same cutoffs, and sums, not means, are kept.

Each metric is a ratio of sums (`tsformer.metrics`). The sums of every series at every cutoff are
kept and put together afterwards, so no result depends on the batch size and no window is dropped.
What a model cannot answer is scored as it would be served, by the fallback, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import polars as pl

from pipelines.fallback import seasonal_naive
from pipelines.forecaster import Forecaster
from pipelines.material import Material, chunks
from pipelines.sections import Backtest
from pipelines.units import Unit
from pipelines.windows import Floats, PanelWindows
from tsformer import metrics
from tsformer.batch import Target
from tsformer.metrics import Bools, Metric, Scored

WINDOWS_A_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the leaderboard.

    `standardised` scores in training deviations, as the papers do; `per_series` finishes the
    metric for every series and takes the mean, so that a busy series weighs as much as a quiet
    one. A series without a scored point (weight 0, the same for every model) is left out.
    """

    metric: Metric
    standardised: bool = False
    per_series: bool = False


def measures(coverage: float) -> dict[str, Measure]:
    """The columns of a leaderboard; `coverage` is that of the interval which is checked.

    RMSSE takes its root for each series (M5); MASE likewise is a mean over series (Hyndman &
    Koehler 2006).
    """
    return {
        "mse_scaled": Measure(metrics.MSE, standardised=True),
        "mae_scaled": Measure(metrics.MAE, standardised=True),
        "mae": Measure(metrics.MAE),
        "rmse": Measure(metrics.RMSE),
        "mase": Measure(metrics.MASE, per_series=True),
        "rmsse": Measure(metrics.RMSSE, per_series=True),
        "wql": Measure(metrics.WQL),
        "coverage": Measure(metrics.coverage(coverage)),
    }


@dataclass(frozen=True, slots=True)
class Scores:
    """What was scored.

    `windows` has a row for each model, series and cutoff (rows from the start of the series) with
    the first and last stamp of its target (`time`, `until`), the two sums of every metric, and
    whether it is a `fallback`; `steps` a row for each model and horizon step with the metrics;
    `leaderboard` a row for each model, best first, with the number
    of its `fallbacks`; `levels` a row for each model and quantile `level` that was asked for, with
    the share of actuals at or `below` it.
    """

    windows: pl.DataFrame
    steps: pl.DataFrame
    leaderboard: pl.DataFrame
    levels: pl.DataFrame = field(default_factory=pl.DataFrame)


def backtest(
    forecasters: Mapping[str, Forecaster],
    material: Material,
    settings: Backtest,
    *,
    part: str = "test",
) -> Scores:
    """Scores of `forecasters` on the windows of `part`, as `settings` want them."""
    context = max(forecaster.recipe.context for forecaster in forecasters.values())
    windows = material.scoring_windows(part, stride=settings.stride, context=context)
    columns = measures(settings.coverage)
    tables, steps, shares, seconds = [], [], [], []
    for name, forecaster in forecasters.items():
        started = perf_counter()
        read = material.read_by(forecaster)
        own = read.scoring_windows(part, stride=settings.stride, context=context)
        counted = _sums(forecaster, own, read, columns, settings)
        seconds.append(perf_counter() - started)
        tables.append(_window_table(name, counted, windows, material))
        steps.append(_step_table(name, counted.metrics, columns))
        shares.append(_level_table(name, counted.below, settings.asked))
    table = pl.concat(tables)
    board = leaderboard(table, columns, metric=settings.metric)
    timed = pl.DataFrame({"model": [*forecasters], "predict_seconds": seconds})
    board = board.join(timed, on="model", maintain_order="left")
    return Scores(table, pl.concat(steps), board, pl.concat(shares))


Sums = dict[str, tuple[Floats, Floats]]  # [2, window, variate] and [2, horizon] of each metric


@dataclass(frozen=True, slots=True)
class Counted:
    """The sums of a forecaster, the actuals below each quantile, and which windows fell back."""

    metrics: Sums
    below: Floats  # [2, level]: actuals at or below the quantile, and all
    failed: Bools  # [window, variate]


def _sums(
    forecaster: Forecaster,
    windows: PanelWindows,
    material: Material,
    columns: Mapping[str, Measure],
    settings: Backtest,
) -> Counted:
    """The sums of a forecaster over `windows`; what it cannot answer, the fallback does."""
    asked = settings.asked
    by_window: dict[str, list[Floats]] = {name: [] for name in columns}
    by_step: dict[str, list[Floats]] = {name: [] for name in columns}
    fallbacks = [np.empty((0, windows.shape.variates), dtype=np.bool_)]
    below = np.zeros((2, len(asked)))
    for rows, batch, target in chunks(windows, WINDOWS_A_CHUNK):
        unit = material.unit(windows, rows)
        own = forecaster.unit(material.ids(windows, rows), batch)
        numbers = forecaster.forecast(batch, asked, unit=own).numpy()
        seen = batch.recent(forecaster.recipe.context).observed.any(1).numpy()
        failed = ~(np.isfinite(numbers).all(axis=(1, 3)) & seen)  # [window, variate]
        fall_back(numbers, failed, material, windows, rows=rows, levels=asked)
        fallbacks.append(failed)
        scored = _scored(numbers, target, asked, scales=material.seasonal_scales(windows, rows))
        standardised = _standardised(scored, unit)
        below += _below(scored)
        for name, measure in columns.items():
            points = standardised if measure.standardised else scored
            if measure.metric is metrics.WQL:
                points = _at(points, settings.levels)
            by_window[name].append(measure.metric.sums(points, by=("window", "variate")))
            by_step[name].append(measure.metric.sums(points, by=("horizon",)))
    sums = {
        name: (np.concatenate(by_window[name], axis=1), np.sum(by_step[name], axis=0))
        for name in columns
    }
    return Counted(sums, below, np.concatenate(fallbacks))


def fall_back(
    numbers: Floats,
    failed: Bools,
    material: Material,
    windows: PanelWindows,
    *,
    rows: slice,
    levels: tuple[float, ...],
) -> None:
    """Puts into `numbers` `[window, horizon, variate, 1 + level]` what would have been served.

    `failed` is `[window, variate]` of the windows `rows`. The fallback reads the whole history up
    to the cutoff, as it does in service.
    """
    groups = windows.groups()[rows]
    cutoffs = windows.cutoffs.numpy()[rows] - windows.grid.offsets[groups]
    for cutoff in np.unique(cutoffs[failed.any(axis=1)]):
        places, variates = np.nonzero(failed & (cutoffs == cutoff)[:, None])
        series = groups[places] * windows.shape.variates + variates
        panel = material.panel.take(series.tolist()).head(int(cutoff))
        answers = seasonal_naive(
            panel,
            range(len(series)),
            season=material.recipe.season,
            horizon=windows.shape.horizon,
            levels=levels,
        )
        numbers[places, :, variates] = answers


def _scored(
    numbers: Floats, target: Target, levels: tuple[float, ...], *, scales: tuple[Floats, Floats]
) -> Scored:
    absolute, square = scales
    return Scored(
        point=numbers[..., 0],
        actual=target.values.double().numpy(),
        observed=target.observed.numpy(),
        quantiles=numbers[..., 1:],
        levels=levels,
        absolute_scale=absolute,
        square_scale=square,
    )


def _below(scored: Scored) -> Floats:
    """How many actuals lie at or below each quantile, and how many there are, `[2, level]`."""
    assert scored.quantiles is not None
    inside = scored.actual[..., None] <= scored.quantiles  # [window, horizon, variate, level]
    known = np.where(np.isnan(scored.quantiles), np.nan, inside)[scored.observed]
    return np.stack([known.sum(axis=0), np.full(known.shape[1], float(len(known)))])


def _standardised(scored: Scored, unit: Unit) -> Scored:
    """Point and actual in training deviations."""
    mean, std = unit.mean.numpy(), unit.std.numpy()  # [window, 1, variate]
    return Scored((scored.point - mean) / std, (scored.actual - mean) / std, scored.observed)


def _at(scored: Scored, levels: tuple[float, ...]) -> Scored:
    """The same points with the quantiles at `levels` alone."""
    quantiles = np.stack([scored.quantile(level) for level in levels], axis=-1)
    return Scored(scored.point, scored.actual, scored.observed, quantiles, levels)


def _window_table(
    name: str, counted: Counted, windows: PanelWindows, material: Material
) -> pl.DataFrame:
    groups, variates = windows.groups(), windows.shape.variates
    series = (groups[:, None] * variates + np.arange(variates)).ravel()  # [window * variate]
    cutoff = np.repeat(windows.cutoffs.numpy() - windows.grid.offsets[groups], variates)
    columns = {
        f"{metric}_{part}": by_window[place].ravel()
        for metric, (by_window, _) in counted.metrics.items()
        for place, part in enumerate(("sum", "weight"))
    }
    ids = pl.Series([str(i) for i in material.panel.ids])
    times, first = material.panel.table["time"], material.panel.offsets[series] + cutoff
    return pl.DataFrame(
        {
            "model": pl.repeat(name, len(series), eager=True),
            "series": ids.gather(series),
            "cutoff": cutoff,
            "time": times.gather(first),
            "until": times.gather(first + windows.shape.horizon - 1),
            **columns,
            "fallback": counted.failed.ravel(),
        }
    )


def _step_table(name: str, sums: Sums, columns: Mapping[str, Measure]) -> pl.DataFrame:
    values = {
        metric: columns[metric].metric.value(by_step) for metric, (_, by_step) in sums.items()
    }
    horizon = len(next(iter(values.values())))
    return pl.DataFrame({"model": [name] * horizon, "step": np.arange(1, horizon + 1), **values})


def _level_table(name: str, below: Floats, levels: Sequence[float]) -> pl.DataFrame:
    inside, points = below
    share = np.where(points > 0, inside / np.maximum(points, 1), np.nan)
    return pl.DataFrame({"model": [name] * len(levels), "level": [*levels], "below": share})


def leaderboard(
    windows: pl.DataFrame, columns: Mapping[str, Measure], *, metric: str
) -> pl.DataFrame:
    """One row a model, best first by `metric`; what is undefined is null and comes last."""
    rows = []
    for (name,), table in windows.group_by("model", maintain_order=True):
        values = {m: total(table, m, columns[m]) for m in columns}
        rows.append({"model": name, **values, "fallbacks": table["fallback"].sum()})
    numbers = dict.fromkeys(columns, pl.Float64)
    board = pl.DataFrame(rows, schema={"model": pl.String, **numbers, "fallbacks": pl.Int64})
    finite = board.with_columns(pl.when(pl.col(m).is_finite()).then(pl.col(m)) for m in columns)
    return finite.sort(metric, "fallbacks", "model", nulls_last=True)


def series_scores(windows: pl.DataFrame, columns: Mapping[str, Measure]) -> pl.DataFrame:
    """The metrics of each series: a row for each model and series, null where undefined."""
    parts = [pl.col(f"{m}_{part}").sum() for m in columns for part in ("sum", "weight")]
    table = windows.group_by("model", "series", maintain_order=True).agg(*parts)
    values = {
        m: measure.metric.value(table.select(f"{m}_sum", f"{m}_weight").to_numpy().T)
        for m, measure in columns.items()
    }
    return table.select("model", "series").with_columns(
        pl.Series(m, series, nan_to_null=True) for m, series in values.items()
    )


def total(table: pl.DataFrame, name: str, measure: Measure) -> float:
    """The metric `name` over all windows of `table`, as the leaderboard has it; NaN if undefined."""
    parts = pl.col(f"{name}_sum").sum(), pl.col(f"{name}_weight").sum()
    if not measure.per_series:
        return float(measure.metric.value(table.select(parts).to_numpy()[0]))
    by_series = table.group_by("series", maintain_order=True).agg(parts)
    sums = by_series.select(pl.exclude("series")).to_numpy().T  # [2, series]
    # left out by weight, not by NaN: a forecast that is not a number must not better the mean
    values = measure.metric.value(sums[:, sums[1] > 0])
    return float(values.mean()) if len(values) else float("nan")
