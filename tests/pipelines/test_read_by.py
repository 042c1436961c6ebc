"""A version on newer rows: scored, calibrated and explained as it would be served there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.backtest import backtest
from pipelines.commands import agrees
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.material import Material
from pipelines.recalibration import _has_not_seen
from pipelines.sections import Backtest
from pipelines.training import fit_all
from tests.panels import experiment_on, hourly, waves
from tsformer.errors import ConfigError


def sales(rows: int, shops: tuple[int, ...] = (0, 1, 2)) -> pl.DataFrame:
    """Shops that sell more when it is cheap, each in its own way; prices rise with the years."""
    every = {name: values for place, (name, values) in enumerate(waves(3, rows).items())
             if place in shops}  # fmt: skip
    table = hourly(every)
    row = pl.int_range(pl.len()).over("unique_id")
    price = (row % 11) + row / 100
    promo = pl.when(row > 1300).then(pl.lit("new")).otherwise(pl.lit("old"))
    return table.with_columns(price=price, promo=promo, y=pl.col("y") - price)


def experiment(folder: Path, table: pl.DataFrame, model: str, **sections: object) -> Experiment:
    folder.mkdir(exist_ok=True)
    known = {"known": ["price", "promo"]} if model == "ridge" else {}
    return experiment_on(
        folder, table, model=model, baselines=[], training={"epochs": 1}, data=known, **sections
    )


def fitted(folder: Path, table: pl.DataFrame, model: str) -> Forecaster:
    asked = experiment(folder, table, model)
    return fit_all(asked, Material.of(asked))[model].forecaster


@pytest.mark.parametrize("model", ["ridge", "pooled_ridge", "dlinear", "linear"])
def test_a_grown_table_is_read_as_the_model_learnt_to_read(tmp_path: Path, model: str) -> None:
    """New mean prices, new words, new and missing shops: the backtest is what would be served."""
    old = fitted(tmp_path / "old", sales(1200), model)
    table = sales(1500, shops=(1, 2))
    newer = Material.of(experiment(tmp_path / "new", table, model))
    agrees("shops/1", old, newer)
    windows = newer.read_by(old).scoring_windows("test", stride=1)
    cut = int(windows.cutoffs[3])
    batch, _ = windows.batch((windows.cutoffs == cut).nonzero()[:, 0])
    unit = old.unit(newer.ids(windows, slice(3, 4)), batch)
    scored = old.forecast(batch, unit=unit)[0, :, 0, 0].numpy()
    panel = newer.panel
    future = panel.table.with_columns(unique_id=pl.Series(panel.ids).gather(panel.table["series"]))
    served = old.predict(panel.take([0]).head(cut), future=future.rename({"time": "ds"}))
    np.testing.assert_allclose(scored, served.table["mean"].to_numpy(), rtol=1e-6)


def test_new_series_take_the_shared_map_in_a_backtest(tmp_path: Path) -> None:
    """The champion so far is scored when a fourth shop has opened, not refused with an index."""
    old = fitted(tmp_path / "old", sales(1200, shops=(1, 2)), "pooled_ridge")
    newer = Material.of(experiment(tmp_path / "new", sales(1500), "pooled_ridge"))
    scores = backtest({"old": old}, newer, Backtest(stride=24, levels=(0.5,)))
    assert scores.windows["mse_scaled_sum"].is_finite().all()


def test_other_columns_are_still_refused(tmp_path: Path) -> None:
    old = fitted(tmp_path / "old", sales(1200), "ridge")
    newer = Material.of(experiment(tmp_path / "new", sales(1500), "dlinear"))
    with pytest.raises(ConfigError, match="reads other covariates"):
        agrees("shops/1", old, newer)


def test_intervals_are_not_calibrated_on_rows_of_the_training(tmp_path: Path) -> None:
    """Residuals of rows that were fitted are small, and the interval would promise too much."""
    old = fitted(tmp_path / "old", sales(1200), "ridge")
    earlier = experiment_on(
        tmp_path, sales(1300), model="ridge", baselines=[],
        data={"known": ["price", "promo"], "split": [0.3, 0.5, 0.2]},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="trained on rows of the validation part"):
        _has_not_seen("shops/1", old, Material.of(earlier))


def test_a_window_with_nothing_observed_is_scored_as_it_is_served(tmp_path: Path) -> None:
    """In a gap longer than the context the service answers with the fallback, so must the score."""
    values = waves(1, 900)
    values["s0"][740:840] = np.nan
    asked = experiment_on(
        tmp_path, hourly(values), baselines=[], window={"context": 24, "horizon": 24}
    )
    material = Material.of(asked)
    found = backtest(
        {"ridge": fit_all(asked, material)["ridge"].forecaster}, material, Backtest(levels=(0.5,))
    )
    assert found.leaderboard["fallbacks"][0] == 100 - 24 + 1
