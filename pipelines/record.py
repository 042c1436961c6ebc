"""What is kept of a training: one MLflow run, and a registered version a model.

The network stands in the run with its rivals: metrics a model, tables of every window, figures a
person wants to look at. Versions of one registered name are the models that were compared; the
alias `candidate` is the experiment's own model, `champion` the best of the leaderboard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.backtest import Scores
from pipelines.coverage import by_series
from pipelines.experiment import Data, Experiment
from pipelines.figures import (
    FanChart,
    forecast_figure,
    horizon_error_figure,
    leaderboard_figure,
    training_curve_figure,
)
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.material import Material
from pipelines.published import data_card
from pipelines.registry import Registry
from pipelines.tracking import DataInput, Run, track
from pipelines.training import Fitted
from pipelines.versions import CANDIDATE, CHAMPION, ModelVersion
from pipelines.windows import Floats, PanelWindows, Rows

SERIES_SHOWN = 4
BAND = (0.1, 0.9)  # the levels between which a fan is filled
HORIZONS_BACK = 3  # history in a figure, in horizons: with more of it the fan is a sliver
BLOCKS = 4  # horizon blocks with a metric of their own
BOARD_METRICS = ("mse_scaled", "mae_scaled", "mase", "rmsse", "wql", "coverage")


@dataclass(frozen=True, slots=True)
class Recorded:
    """The run and the versions that came of a training, by model name.

    `champion` is the first of the leaderboard; not among the versions if the old one stays. It is
    `crowned` unless an old champion could not be compared with it.
    """

    run_id: str
    versions: Mapping[str, ModelVersion]
    champion: str
    crowned: bool


def record(
    experiment: Experiment,
    material: Material,
    fitted: Mapping[str, Fitted],
    scores: Scores,
    *,
    home: Home,
    crown: bool = True,
) -> Recorded:
    """Logs the training as one run and registers every model that was compared.

    The alias `champion` moves to the best of them, unless told not to `crown` it.
    """
    candidate = next(iter(fitted))
    tags = {
        "model": candidate,
        "horizon": experiment.window.horizon,
        "context": experiment.window.context,
        "experiment_digest": experiment.digest,
    }
    with track(home, experiment=experiment.name, name=candidate, tags=tags) as run:
        run.config(experiment.resolved())
        run.data(data_input(experiment, material))
        log_scores(run, scores, horizon=experiment.window.horizon)
        for name, entry in fitted.items():
            run.history([asdict(epoch) for epoch in entry.fit.history], model=name)
        log_figures(run, experiment, material, fitted, scores)
        versions = _register(experiment, fitted, scores, run=run, home=home)
    champion = str(scores.leaderboard["model"][0])
    registry = Registry(home)
    registry.promote(str(versions[candidate]), alias=CANDIDATE)
    if champion in versions and crown:
        registry.promote(str(versions[champion]), alias=CHAMPION)
    return Recorded(run.id, versions, champion, crown)


def data_input(experiment: Experiment, material: Material) -> DataInput:
    """The table of an experiment as MLflow lists it."""
    table = material.panel.table
    return DataInput(
        name=experiment.data.name,
        fingerprint=material.fingerprint,
        source=experiment.data.source,
        series=len(material.panel.ids),
        rows=len(table),
        columns={name: str(dtype) for name, dtype in table.schema.items()},
    )


def log_scores(run: Run, scores: Scores, *, horizon: int) -> None:
    """The leaderboard as metrics, error by horizon block, and the tables behind them."""
    rows = scores.leaderboard.to_dicts()
    run.metrics(
        {m: {row["model"]: row[m] for row in rows if row[m] is not None} for m in BOARD_METRICS}
    )
    run.metrics({"mae_block": _blocks(scores.steps, horizon)})
    run.table(scores.leaderboard, "scores/leaderboard.parquet")
    run.table(scores.windows, "scores/windows.parquet")
    run.table(scores.steps, "scores/steps.parquet")
    run.table(by_series(scores.windows), "scores/coverage_by_series.parquet")


def log_figures(
    run: Run,
    experiment: Experiment,
    material: Material,
    fitted: Mapping[str, Fitted],
    scores: Scores,
) -> None:
    """Forecasts and training curve of every model, and error by horizon step of all."""
    for name, entry in fitted.items():
        charts = fan_charts(material, entry)
        title = f"{experiment.name}: {name}, the newest window of the test part"
        run.figure(forecast_figure(charts, title=title), f"figures/forecast-{name}.png")
        if entry.fit.history:
            epochs = [asdict(epoch) for epoch in entry.fit.history]
            curve = training_curve_figure(epochs, loss=experiment.training.loss)
            run.figure(curve, f"figures/training-{name}.png")
    errors = {
        str(name): table["mae"].to_numpy()
        for (name,), table in scores.steps.group_by("model", maintain_order=True)
    }
    metric = experiment.backtest.metric
    ranked = {r["model"]: r[metric] for r in scores.leaderboard.to_dicts() if r[metric] is not None}
    if ranked:
        run.figure(leaderboard_figure(ranked, metric=metric), "figures/leaderboard.png")
    run.figure(horizon_error_figure(errors, metric="MAE"), "figures/error_by_step.png")


def fan_charts(material: Material, fitted: Fitted) -> list[FanChart]:
    """The newest test window of a handful of series: recent past, actual, point and band.

    There is no band where the forecaster's quantiles do not reach as far.
    """
    served = fitted.forecaster.levels
    reached = bool(served) and served[0] <= BAND[0] and BAND[1] <= served[-1]
    windows = material.scoring_windows("test", stride=1)
    index = _newest(windows)
    batch, target = windows.batch(torch.from_numpy(index))
    unit = fitted.forecaster.unit(material.ids(windows, index), batch)
    fans = fitted.forecaster.forecast(batch, BAND if reached else (), unit=unit).numpy()
    shown = min(windows.shape.context, HORIZONS_BACK * windows.shape.horizon)
    past = _seen(batch.past, batch.observed)[:, -shown:]
    actual = _seen(target.values, target.observed)
    places = list(np.ndindex(len(index), windows.shape.variates))[:SERIES_SHOWN]
    return [
        _chart(
            material, windows, int(index[place]), variate,
            past=past[place, :, variate], actual=actual[place, :, variate],
            fan=fans[place, :, variate],
        )
        for place, variate in places
    ]  # fmt: skip


def _newest(windows: PanelWindows) -> Rows:
    """The last window of each of the first few groups."""
    groups = windows.groups()
    from_end = np.unique(groups[::-1], return_index=True)[1]
    newest: Rows = len(groups) - 1 - from_end[:SERIES_SHOWN]
    return newest


def _seen(values: Tensor, observed: Tensor) -> Floats:
    """`values` in float64, NaN where nothing was observed."""
    seen: Floats = values.double().masked_fill(~observed, torch.nan).numpy()
    return seen


def _chart(
    material: Material,
    windows: PanelWindows,
    window: int,
    variate: int,
    *,
    past: Floats,
    actual: Floats,
    fan: Floats,
) -> FanChart:
    """One variate of one window; `fan` `[horizon, 1 + level]` is the point and the band, if any."""
    group = int(windows.groups()[window])
    series = group * windows.shape.variates + variate
    cutoff = int(windows.cutoffs[window]) - int(windows.grid.offsets[group])
    row = int(material.panel.offsets[series]) + cutoff  # the first target row in the table
    times = material.panel.table["time"]
    return FanChart(
        title=str(material.panel.ids[series]),
        times=_wall(times[row - len(past) : row]),
        history=past,
        future_times=_wall(times[row : row + len(fan)]),
        actual=actual,
        point=fan[:, 0],
        bands={BAND: (fan[:, 1], fan[:, 2])} if fan.shape[1] > 1 else {},
    )


def _wall(times: pl.Series) -> NDArray[Any]:
    """Stamps as a figure shows them: local time, or step numbers."""
    return (
        times.dt.replace_time_zone(None).to_numpy()
        if times.dtype.is_temporal()
        else times.to_numpy()
    )


def _register(
    experiment: Experiment,
    fitted: Mapping[str, Fitted],
    scores: Scores,
    *,
    run: Run,
    home: Home,
) -> dict[str, ModelVersion]:
    registry = Registry(home)
    versions = {}
    with TemporaryDirectory() as scratch:
        for name, entry in fitted.items():
            folder = Path(scratch) / name
            digest = entry.forecaster.save(folder)
            versions[name] = registry.publish(
                experiment.name,
                folder,
                digest=digest,
                run_id=run.id,
                card=card_of(entry.forecaster, scores, name=name, data=experiment.data),
            )
    return versions


def card_of(forecaster: Forecaster, scores: Scores, *, name: str, data: Data) -> dict[str, Any]:
    """The card of a forecaster with its data and what it scored, as `name` in the leaderboard."""
    (row,) = scores.leaderboard.filter(pl.col("model") == name).to_dicts()
    metrics = {m: row[m] for m in BOARD_METRICS if row[m] is not None}
    return {**forecaster.card, "metrics": metrics, "data": data_card(data)}


def _blocks(steps: pl.DataFrame, horizon: int) -> dict[str, dict[str, float]]:
    """Mean absolute error over `BLOCKS` equal parts of the horizon: model -> block -> value."""
    size = -(-horizon // BLOCKS)
    blocks: dict[str, dict[str, float]] = {}
    for (name,), table in steps.group_by("model", maintain_order=True):
        mae = table["mae"].to_numpy()
        starts = range(0, len(mae), size)
        blocks[str(name)] = {
            f"h{a + 1:03d}-{min(a + size, len(mae)):03d}": float(mae[a : a + size].mean())
            for a in starts
        }
    return blocks
