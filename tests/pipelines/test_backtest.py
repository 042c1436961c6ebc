"""Backtests: the same cutoffs for all, exact sums, nothing read ahead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from pipelines import backtest as module
from pipelines.backtest import Scores, backtest, measures, series_scores
from pipelines.forecaster import Forecaster
from pipelines.material import Material
from pipelines.sections import Backtest
from pipelines.training import fit_all
from pipelines.versions import FALLBACK
from tests.panels import experiment_on, hourly, waves
from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError
from tsformer.model import Model
from tsformer.models.naive import LastValueSpec
from tsformer.train import Training

LEVELS = (0.1, 0.5, 0.9)
ASKED = Backtest(levels=LEVELS, metric="mase")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Material, dict[str, Forecaster]]:
    values = waves(3, 700)
    values["s1"][100:130] = np.nan  # a gap that every model has to live with
    values["s2"][650:655] = np.nan
    experiment = experiment_on(tmp_path_factory.mktemp("data"), hourly(values))
    material = Material.of(experiment)
    fitted = fit_all(experiment, material, device="cpu")
    return material, {name: entry.forecaster for name, entry in fitted.items()}


def run(prepared: tuple[Material, dict[str, Forecaster]], **options: object) -> Scores:
    material, forecasters = prepared
    return backtest(forecasters, material, replace(ASKED, **options))  # type: ignore[arg-type]


def test_every_model_is_scored_on_the_same_windows(
    prepared: tuple[Material, dict[str, Forecaster]],
) -> None:
    """Scores on different windows compare seasons, not models."""
    windows = run(prepared, stride=5).windows
    places = [
        table.select("series", "cutoff", "mae_weight")
        for _, table in windows.group_by("model", maintain_order=True)
    ]
    assert len(places) == 2
    assert places[0].equals(places[1])


def test_no_window_is_dropped_and_no_missing_value_counts(
    prepared: tuple[Material, dict[str, Forecaster]],
) -> None:
    scores = run(prepared)
    ridge = scores.windows.filter(pl.col("model") == "ridge")
    per_series = 140 - 24 + 1  # 20 % of 700 rows, stride 1
    assert len(ridge) == 3 * per_series
    observed = ridge.group_by("series", maintain_order=True).agg(pl.col("mae_weight").sum())
    full = per_series * 24
    assert observed["mae_weight"].to_list()[:2] == [full, full]
    assert observed["mae_weight"][2] < full


def test_metrics_do_not_depend_on_the_batch_size(
    prepared: tuple[Material, dict[str, Forecaster]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(prepared).leaderboard.drop("predict_seconds")
    monkeypatch.setattr(module, "WINDOWS_A_CHUNK", 7)
    parts = run(prepared).leaderboard.drop("predict_seconds")
    assert parts["model"].equals(whole["model"])
    one, other = (board.drop("model").to_numpy() for board in (parts, whole))
    np.testing.assert_allclose(one, other, rtol=1e-7)  # the ridge's float32 has its last place


def test_the_share_below_each_quantile_is_counted_over_all_points(
    prepared: tuple[Material, dict[str, Forecaster]],
) -> None:
    """Calibration is judged by it: one level off, or a missing value counted, and it lies."""
    material, forecasters = prepared
    scores = run(prepared, stride=24)
    windows = material.scoring_windows("test", stride=24)
    batch, target = windows.batch(torch.arange(len(windows)))
    answer = forecasters["ridge"].forecast(batch, LEVELS)[..., 1:].numpy()
    actual = target.values.double().numpy()[..., None]
    expected = (actual <= answer)[target.observed.numpy()].mean(axis=0)
    ridge = scores.levels.filter(pl.col("model") == "ridge")
    assert ridge["level"].to_list() == list(LEVELS)
    np.testing.assert_allclose(ridge["below"], expected, atol=1e-3)
    inside = scores.leaderboard.filter(pl.col("model") == "ridge")["coverage"][0]
    assert ridge["below"][2] - ridge["below"][0] == pytest.approx(inside, abs=1e-9)


def test_scores_by_series_add_up_to_the_leaderboard(
    prepared: tuple[Material, dict[str, Forecaster]],
) -> None:
    """A table by series that tells another story than the leaderboard is worse than none."""
    scores = run(prepared, stride=5)
    table = series_scores(scores.windows, measures(0.8))
    assert len(table) == 2 * 3
    means = dict(table.group_by("model").agg(pl.col("mase").mean()).iter_rows())
    for row in scores.leaderboard.to_dicts():
        assert means[row["model"]] == pytest.approx(row["mase"], rel=1e-12)


def test_scores_are_those_of_the_forecasts_a_user_would_get(
    prepared: tuple[Material, dict[str, Forecaster]],
) -> None:
    """One window worked by hand through the public path: panel in, forecast out."""
    material, forecasters = prepared
    scores = run(prepared, stride=1)
    cutoff = 600
    for name, forecaster in forecasters.items():
        panel = material.panel
        head = panel.head(cutoff)
        table = forecaster.predict(head, levels=LEVELS).table
        row = scores.windows.filter(
            (pl.col("model") == name) & (pl.col("series") == "s0") & (pl.col("cutoff") == cutoff)
        )
        actual = panel.target[cutoff : cutoff + 24]
        point = table.filter(pl.col("unique_id") == "s0")["mean"].to_numpy()
        assert row["mae_sum"][0] == pytest.approx(np.abs(actual - point).sum(), rel=1e-6)
        assert row["rmse_sum"][0] == pytest.approx(((actual - point) ** 2).sum(), rel=1e-6)
        scaled = np.abs(actual - point).sum() / material.scaler.std[0, 0]
        assert row["mae_scaled_sum"][0] == pytest.approx(scaled, rel=1e-6)


def test_nothing_after_the_cutoff_changes_a_forecast(tmp_path: Path) -> None:
    """A spike planted in the test part must leave fit, penalty, calibration and forecasts as
    they were: leakage is the worst defect of this trade."""
    values = waves(2, 700)
    planted = {name: series.copy() for name, series in values.items()}
    for series in planted.values():
        series[560:] *= 1e3  # the test part alone
    outcomes = []
    for i, table in enumerate((values, planted)):
        folder = tmp_path / str(i)
        folder.mkdir()
        experiment = experiment_on(folder, hourly(table))
        material = Material.of(experiment)
        fitted = fit_all(experiment, material, device="cpu")
        head = material.panel.head(560)
        outcomes.append(fitted["ridge"].forecaster.predict(head, levels=LEVELS).table)
    assert outcomes[0].equals(outcomes[1])


def test_in_sample_seasonal_naive_has_mase_one(tmp_path: Path) -> None:
    """The scale of MASE is the mean absolute seasonal difference of the training part."""
    random = np.random.default_rng(1)
    walk = np.cumsum(random.normal(size=3000))
    experiment = experiment_on(
        tmp_path,
        hourly({"a": walk}),
        window={"context": 72, "horizon": 24},
        model={"kind": "seasonal_naive"},
        baselines=[],
    )
    material = Material.of(experiment)
    assert material.seasonal_error[0] == pytest.approx(
        np.abs(walk[24:2100] - walk[: 2100 - 24]).mean()
    )
    forecaster = fit_all(experiment, material, device="cpu")["seasonal_naive"].forecaster
    scores = backtest({"naive": forecaster}, material, ASKED, part="train")
    assert scores.leaderboard["mase"][0] == pytest.approx(1.0, abs=0.05)


def test_a_constant_series_has_no_mase_and_spoils_no_mean(tmp_path: Path) -> None:
    values = waves(1, 700) | {"flat": np.full(700, 5.0)}
    experiment = experiment_on(tmp_path, hourly(values))
    material = Material.of(experiment)
    fitted = fit_all(experiment, material, device="cpu")
    forecasters = {name: entry.forecaster for name, entry in fitted.items()}
    board = backtest(forecasters, material, ASKED).leaderboard
    assert board.select(pl.exclude("model")).to_numpy().size
    assert np.isfinite(board.select(pl.exclude("model")).to_numpy()).all()
    alone = experiment_on(tmp_path, hourly({"s0": values["s0"]}))
    again = Material.of(alone)
    single = fit_all(alone, again, device="cpu")["seasonal_naive"].forecaster
    lone = backtest({"seasonal_naive": single}, again, ASKED).leaderboard
    both = board.filter(pl.col("model") == "seasonal_naive")
    assert both["mase"][0] == pytest.approx(lone["mase"][0])


class Broken(Model):
    """The last value, and NaN wherever that is more than `limit`."""

    def __init__(self, shape: Shape, *, limit: float) -> None:
        super().__init__(shape)
        self.limit = limit

    def forward(self, batch: Batch) -> Tensor:
        last = batch.past[:, -1:, :, None]
        emitted = torch.where(last > self.limit, torch.nan, last)
        return emitted.expand(-1, self.shape.horizon, -1, -1)


@pytest.mark.parametrize("limit", [50.0, -torch.inf])
@pytest.mark.parametrize("metric", ["mase", "rmsse", "mae", "wql"])
def test_what_a_model_cannot_answer_is_scored_as_it_is_served(
    tmp_path: Path, metric: str, limit: float
) -> None:
    """The hardest series answered with NaN must neither better the mean of the others nor vanish."""
    noise = np.random.default_rng(3).normal(size=700)
    values = waves(2, 700) | {"high": 1000 + np.cumsum(noise)}
    values["high"][600:620] = np.nan  # the fallback looks further back than the window
    experiment = experiment_on(
        tmp_path, hourly(values), model={"kind": "seasonal_naive"}, baselines=[]
    )
    material = Material.of(experiment)
    sound = fit_all(experiment, material, device="cpu")["seasonal_naive"].forecaster
    broken = Forecaster(
        Broken(material.shape, limit=limit),
        spec=LastValueSpec(),
        recipe=material.recipe,
        calibration=sound.calibration,
        device="cpu",
    )
    both = {"broken": broken, "sound": sound}
    scores = backtest(both, material, replace(ASKED, metric=metric, stride=9))
    board = scores.leaderboard
    mine = scores.windows.filter(pl.col("model") == "broken")
    failed = mine.filter(pl.col("fallback"))
    assert {*failed["series"]} == ({"high"} if limit == 50 else {"s0", "s1", "high"})
    counts = dict(board.select("model", "fallbacks").iter_rows())
    assert counts == {"broken": len(failed), "sound": 0}
    assert np.isfinite(board.select(pl.exclude("model")).to_numpy()).all()
    for row in failed.filter(pl.col("series") == "high").iter_rows(named=True):
        cutoff = row["cutoff"]
        served = broken.predict(material.panel.head(cutoff), levels=LEVELS)
        assert served.series[2].fallback == {"model": FALLBACK, "reason": "nonfinite_output"}
        point = served.table.filter(pl.col("unique_id") == "high")["mean"].to_numpy()
        error = np.abs(values["high"][cutoff : cutoff + 24] - point)
        assert row["mae_sum"] == pytest.approx(np.nansum(error), rel=1e-9)


def test_steps_and_windows_tell_the_same_story(
    prepared: tuple[Material, dict[str, Forecaster]],
) -> None:
    scores = run(prepared, stride=3)
    for name in ("ridge", "seasonal_naive"):
        steps = scores.steps.filter(pl.col("model") == name)
        assert steps["step"].to_list() == [*range(1, 25)]
        windows = scores.windows.filter(pl.col("model") == name)
        pooled = windows["mae_sum"].sum() / windows["mae_weight"].sum()
        assert scores.leaderboard.filter(pl.col("model") == name)["mae"][0] == pytest.approx(pooled)


@pytest.mark.parametrize("level", [5.0, 1.1, -7e9 / 3])
def test_a_series_that_wakes_after_training_is_scored_in_its_own_unit(
    tmp_path: Path, level: float
) -> None:
    """490 times 1.1 have a deviation of 1e-16 by rounding: no error may be divided by that."""
    woken = np.full(700, level)
    woken[560:] += np.arange(140) % 3
    values = waves(1, 700) | {"woken": woken, "late": np.where(np.arange(700) < 560, np.nan, 1.0)}
    experiment = experiment_on(tmp_path, hourly(values), baselines=["seasonal_naive", "linear"])
    experiment = replace(experiment, training=Training(epochs=1, windows_per_epoch=8))
    material = Material.of(experiment)
    fitted = fit_all(experiment, material, device="cpu")
    forecasters = {name: entry.forecaster for name, entry in fitted.items()}
    board = backtest(forecasters, material, replace(ASKED, stride=5)).leaderboard
    assert np.isfinite(board.select(pl.exclude("model")).to_numpy()).all()
    assert (board["mae_scaled"] < 100).all()
    assert (board["mase"] < 100).all()


def test_calibrated_intervals_cover_about_what_they_say(
    prepared: tuple[Material, dict[str, Forecaster]],
) -> None:
    board = run(prepared).leaderboard
    assert board["coverage"].is_between(0.7, 0.9).all()


def test_the_same_kind_twice_is_refused(tmp_path: Path) -> None:
    experiment = experiment_on(tmp_path, hourly(waves(1, 700)), baselines=["ridge"])
    with pytest.raises(ConfigError, match="twice"):
        fit_all(experiment, Material.of(experiment), device="cpu")
