"""Rolling origins: every model forecasts the same cutoffs, and sums, not means, are kept.

A score is a sum over the horizon of one series at one cutoff; metrics are made from the sums
afterwards, so they depend neither on the batch size nor on the order, and no window is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import polars as pl

from pipelines.forecaster import Forecaster
from pipelines.material import Material, chunks
from pipelines.windows import Floats, PanelWindows

WINDOWS_A_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Scores:
    """What was scored, per model.

    `windows` has a row for each model, series and cutoff with the sums over its observed steps;
    `steps` has a row for each model and horizon step; `leaderboard` a row for each model.
    """

    windows: pl.DataFrame
    steps: pl.DataFrame
    leaderboard: pl.DataFrame


def backtest(
    forecasters: Mapping[str, Forecaster],
    material: Material,
    *,
    part: str = "test",
    stride: int = 1,
    levels: Sequence[float],
    coverage: float = 0.8,
    metric: str = "mase",
) -> Scores:
    """Scores of `forecasters` on the windows of `part`, a cutoff every `stride` steps.

    `levels` are the quantile levels of the weighted quantile loss; `coverage` is the nominal
    coverage of the central interval that is checked; `metric` orders the leaderboard.
    """
    context = max(forecaster.recipe.context for forecaster in forecasters.values())
    windows = material.scoring_windows(part, stride=stride, context=context)
    tail = round((1 - coverage) / 2, 4)
    asked = tuple(sorted({*levels, tail, round(1 - tail, 4)}))
    tables, steps, seconds = [], [], {}
    for name, forecaster in forecasters.items():
        started = perf_counter()
        sums = _score(
            forecaster, windows, asked, levels=levels, tail=tail, name=name, report=report
        )
        seconds[name] = perf_counter() - started
        tables.append(_window_table(name, sums, windows, material))
        steps.append(_step_table(name, sums))
    table, step_table = pl.concat(tables), pl.concat(steps)
    board = leaderboard(table, metric=metric).join(
        pl.DataFrame({"model": [*seconds], "predict_seconds": [*seconds.values()]}), on="model"
    )
    return Scores(table, step_table, board.sort(metric, "model", nulls_last=True))


Sums = dict[str, Floats]  # each [window, horizon, variate], summed later over what is wanted


def _score(
    forecaster: Forecaster,
    windows: PanelWindows,
    material: Material,
    asked: Sequence[float],
    *,
    levels: Sequence[float],
    tail: float,
) -> Sums:
    parts: list[Sums] = []
    for rows, batch, target in chunks(windows, WINDOWS_A_CHUNK):
        numbers = forecaster.forecast(batch, asked, unit=material.unit(windows, rows)).numpy()
        parts.append(
            statistics(
                numbers[..., 0],
                numbers[..., 1:],
                target.values.double().numpy(),
                target.observed.numpy(),
                asked=asked,
                levels=levels,
                tail=tail,
            )
        )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def statistics(
    point: Floats,
    quantiles: Floats,
    actual: Floats,
    observed: np.ndarray,
    *,
    asked: Sequence[float],
    levels: Sequence[float],
    tail: float,
) -> Sums:
    """Pointwise statistics `[window, horizon, variate]`, 0 where nothing was observed."""
    error = np.where(observed, actual - point, 0.0)
    wanted = [asked.index(level) for level in levels]
    gap = actual[..., None] - quantiles[..., wanted]  # [window, horizon, variate, level]
    level = np.asarray(levels)
    pinball = np.maximum(level * gap, (level - 1) * gap).mean(axis=-1)
    low, high = quantiles[..., asked.index(tail)], quantiles[..., asked.index(round(1 - tail, 4))]
    inside = (low <= actual) & (actual <= high)
    return {
        "count": observed.astype(np.float64),
        "squared": error**2,
        "absolute": np.abs(error),
        "pinball": np.where(observed, pinball, 0.0),
        "magnitude": np.where(observed, np.abs(actual), 0.0),
        "covered": (inside & observed).astype(np.float64),
    }


def _window_table(name: str, sums: Sums, windows: PanelWindows, material: Material) -> pl.DataFrame:
    groups, variates = windows.groups(), windows.shape.variates
    series = (groups[:, None] * variates + np.arange(variates)).ravel()  # [window * variate]
    cutoff = np.repeat(windows.cutoffs.numpy() - windows.grid.offsets[groups], variates)
    std = material.scaler.std.ravel()[series]
    columns = {key: value.sum(axis=1).ravel() for key, value in sums.items()}
    return pl.DataFrame(
        {
            "model": pl.repeat(name, len(series), eager=True),
            "series": pl.Series([str(i) for i in material.panel.ids])[series],
            "cutoff": cutoff,
            **columns,
            "squared_scaled": columns["squared"] / std**2,
            "absolute_scaled": columns["absolute"] / std,
            "seasonal_error": material.seasonal_error[series],
            "seasonal_square": material.seasonal_square[series],
        }
    ).with_columns(pl.col("seasonal_error", "seasonal_square").fill_nan(None))


def _step_table(name: str, sums: Sums) -> pl.DataFrame:
    totals = {key: value.sum(axis=(0, 2)) for key, value in sums.items()}
    count = np.maximum(totals["count"], 1)
    return pl.DataFrame(
        {
            "model": [name] * len(count),
            "step": np.arange(1, len(count) + 1),
            "mae": totals["absolute"] / count,
            "rmse": np.sqrt(totals["squared"] / count),
            "wql": 2 * totals["pinball"] / np.maximum(totals["magnitude"], 1e-300),
            "coverage": totals["covered"] / count,
        }
    )


def leaderboard(windows: pl.DataFrame, *, metric: str = "mase") -> pl.DataFrame:
    """One row a model, best first by `metric`.

    `mse_scaled` and `mae_scaled` are the papers' (all windows, steps and series alike, in
    training deviations). `mase` and `rmsse` are means over series (Hyndman & Koehler 2006;
    M5): a series whose season never changes has none and is left out. `wql` is the mean over
    levels of the weighted quantile loss, `coverage` the share inside the central interval.
    """
    total = pl.col("count").sum()
    pooled = windows.group_by("model", maintain_order=True).agg(
        mse_scaled=pl.col("squared_scaled").sum() / total,
        mae_scaled=pl.col("absolute_scaled").sum() / total,
        mae=pl.col("absolute").sum() / total,
        rmse=(pl.col("squared").sum() / total).sqrt(),
        wql=2 * pl.col("pinball").sum() / pl.col("magnitude").sum(),
        coverage=pl.col("covered").sum() / total,
        windows=pl.len(),
    )
    return pooled.join(_scaled(windows), on="model").sort(metric, "model", nulls_last=True)


def _scaled(windows: pl.DataFrame) -> pl.DataFrame:
    """MASE and RMSSE: means over the series in which they are defined."""
    count = pl.col("count").sum()
    mean_absolute, mean_square = pl.col("absolute").sum() / count, pl.col("squared").sum() / count
    error, square = pl.col("seasonal_error").first(), pl.col("seasonal_square").first()
    return (
        windows.group_by("model", "series", maintain_order=True)
        .agg(
            mase=pl.when(error > 0).then(mean_absolute / error),
            rmsse=pl.when(square > 0).then((mean_square / square).sqrt()),
        )
        .group_by("model", maintain_order=True)
        .agg(pl.col("mase").mean(), pl.col("rmsse").mean())
    )
