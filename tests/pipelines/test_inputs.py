"""From a YAML file to a forecast with every kind of input: what is named is really used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from pipelines.agreement import unread
from pipelines.data_section import read
from pipelines.experiment import Experiment
from pipelines.features.categories import Vocabulary
from pipelines.forecast_command import Wanted, forecast_command
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.material import Material
from pipelines.registry import Registry
from pipelines.training import fit_all
from pipelines.versions import Fetched, ModelVersion
from tests.panels import START, experiment_on, hourly, panel_of, waves
from tsformer.errors import ConfigError
from tsformer.models.pooled_ridge import PooledRidge
from tsformer.settings import to_mapping

ROWS, SEASON = 1200, 24


def shop(path: Path) -> pl.DataFrame:
    """Sales that follow a promotion known ahead, and visits that repeat after 200 hours."""
    chance = np.random.default_rng(0)
    base = np.resize(chance.normal(size=200), ROWS)
    promo = chance.choice(["none", "coupon", "flyer"], size=ROWS)
    lift = np.select([promo == "coupon", promo == "flyer"], [3.0, -2.0], 0.0)
    noise = 0.1 * chance.normal(size=ROWS)
    table = pl.DataFrame(
        {
            "hour": pl.datetime_range(
                START, START.replace(year=2030), "1h", time_zone=None, eager=True
            )[:ROWS],
            "sold": 50 + lift + noise,
            "visits": 50 + base + noise,
            "promo": promo,
            "till": chance.integers(1, 4, size=ROWS),
        }
    )
    table.write_csv(path)
    return table


def experiment(folder: Path, target: str = "sold", **window: object) -> Experiment:
    table = folder / "shop.csv"
    if not table.exists():
        shop(table)
    file = folder / "shop.yaml"
    content = {
        "data": {
            "source": "shop.csv",
            "time": "hour",
            "targets": [target],
            "known": ["promo", "till"],
            "categories": ["till"],
        },
        "window": {"context": 48, "horizon": 12, **window},
        "model": "ridge",
        "baselines": ["nlinear", "seasonal_naive"],
        "training": {"epochs": 1},
    }
    file.write_text(yaml.safe_dump(content))
    return Experiment.read(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


def ridge(folder: Path, target: str = "sold", **window: object) -> tuple[Forecaster, Material]:
    asked = experiment(folder, target, **window)
    material = Material.of(asked)
    return fit_all(asked, material)["ridge"].forecaster, material


def error(forecaster: Forecaster, material: Material) -> float:
    """Mean absolute error over the test part."""
    windows = material.scoring_windows("test", stride=1)
    batch, target = windows.batch(pl.int_range(len(windows), eager=True).to_torch())
    return float((forecaster.forecast(batch)[..., 0] - target.values).abs().mean())


def test_categories_and_lags_are_worth_what_they_explain(folder: Path) -> None:
    """The noise of 0.1 is left where the promotion is read, and the period beyond the context."""
    unexplained = 0.8  # the mean absolute value of a standard normal number
    assert error(*ridge(folder, "sold")) < 0.2
    assert error(*ridge(folder, "visits")) > 0.8 * unexplained
    assert error(*ridge(folder, "visits", lags=[200])) < 0.2


def test_served_as_trained(folder: Path, tmp_path: Path) -> None:
    """Saved, loaded and asked with a table: the numbers of the backtest's own windows."""
    forecaster, material = ridge(folder, lags=[200])
    forecaster.save(tmp_path / "model")
    loaded = Forecaster.load(tmp_path / "model")
    assert loaded.recipe == forecaster.recipe
    panel, _, _ = read(experiment(folder, lags=[200]).data)
    cut = 1100
    windows = material.scoring_windows("test", stride=1)
    batch, _ = windows.batch((windows.cutoffs == cut).nonzero()[:, 0])
    expected = forecaster.forecast(batch, (0.1, 0.9)).numpy()[0, :, 0]
    future = panel.table.slice(cut, 12).rename({"time": "hour"})
    forecast = loaded.predict(panel.head(cut), levels=(0.1, 0.9), future=future)
    served = forecast.table.select("mean", "q0.1", "q0.9").to_numpy()
    np.testing.assert_allclose(served, expected, rtol=1e-5)
    assert not forecast.warnings


def test_a_strange_word_is_forecast_and_said(folder: Path) -> None:
    forecaster, _ = ridge(folder, lags=[200])
    panel, _, _ = read(experiment(folder).data)
    future = panel.table.slice(1100, 12).rename({"time": "hour"})
    future = future.with_columns(promo=pl.lit("fair"))
    forecast = forecaster.predict(panel.head(1100), future=future)
    assert forecast.table["mean"].is_finite().all()
    assert [fault.code for fault in forecast.warnings] == ["unknown_category"]


def test_ids_that_look_like_numbers_match_in_a_plan(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment keeps shop 007 as text, so its plan must do so too."""
    forecaster, _ = ridge(folder)
    digest = forecaster.save(tmp_path / "model")
    card = {"data": {**to_mapping(experiment(folder).data), "id": "shop"}}
    version = ModelVersion("shop", "1", "ridge", digest, run_id="", created_at="", card=card)
    fetched = Fetched(version, tmp_path / "model", fresh=True)
    monkeypatch.setattr(Registry, "fetch", lambda *_: fetched)
    table = pl.read_csv(folder / "shop.csv").with_columns(shop=pl.lit("007"))
    table[:1100].write_csv(tmp_path / "sales.csv")
    table[1100:1112].write_csv(tmp_path / "plan.csv")
    wanted = Wanted(
        table=str(tmp_path / "sales.csv"), future=tmp_path / "plan.csv", horizon=None, levels="",
        out=tmp_path / "out.parquet", workers=None,
    )  # fmt: skip
    forecast_command("shop/1", wanted, home=Home.of({"TSFORMER_HOME": str(tmp_path)}))
    answer = pl.read_parquet(tmp_path / "out.parquet")
    assert answer["shop"].to_list() == ["007"] * 12
    expected = forecaster.predict(
        read(experiment(folder).data)[0].head(1100), future=table[1100:1112]
    )
    np.testing.assert_allclose(answer["mean"], expected.table["mean"], rtol=1e-6)


def test_who_reads_no_covariate_needs_none(folder: Path) -> None:
    asked = experiment(folder, lags=[200])
    network = fit_all(asked, Material.of(asked))["nlinear"].forecaster
    panel, _, _ = read(replace(asked.data, known=(), categories=()))
    assert network.predict(panel).table["mean"].is_finite().all()


@pytest.mark.parametrize(
    ("window", "named"),
    [
        ({"lags": [6]}, "a lag of 6 steps looks beyond the cutoff"),
        ({"lags": [200, 200]}, "lag 200 is named more than once"),
        ({"lags": [5000]}, "longest lag.*or window.lags"),
    ],
)
def test_lags_that_cannot_be_are_refused(
    folder: Path, window: dict[str, object], named: str
) -> None:
    with pytest.raises(Exception, match=named):
        ridge(folder, **window)


def test_a_category_must_be_a_covariate(folder: Path) -> None:
    good = experiment(folder).data
    with pytest.raises(ConfigError, match="'categories' names store"):
        replace(good, categories=("store",))


def test_what_a_model_cannot_read_is_said(folder: Path) -> None:
    """Its baseline reads the promotion: the user must not think that the network does."""
    asked = experiment(folder, lags=[200])
    assert unread(asked) == [
        "data.known (promo, till): read by ridge, not by nlinear, seasonal_naive.",
        "window.lags (200): read by ridge, not by nlinear, seasonal_naive.",
    ]
    assert unread(replace(asked, baselines=())) == []


def test_a_series_is_known_by_its_name(tmp_path: Path) -> None:
    """Asked in another order, or alone, a series keeps the correction that is its own."""
    asked = experiment_on(tmp_path, hourly(waves(3, 900)), model="pooled_ridge")
    forecaster = fit_all(asked, Material.of(asked))["pooled_ridge"].forecaster
    forecaster.save(tmp_path / "model")
    loaded = Forecaster.load(tmp_path / "model")
    assert loaded.recipe.series == Vocabulary(("s0", "s1", "s2"))
    model = loaded.model
    assert isinstance(model, PooledRidge)
    assert model.correction.abs().amax((1, 2)).count_nonzero() > 0
    panel = panel_of(waves(3, 900))
    whole = loaded.predict(panel).table
    for name, place in (("s2", 2), ("s0", 0)):
        alone = loaded.predict(panel.take([place])).table
        kept = whole.filter(whole["unique_id"] == name)
        assert np.allclose(alone["mean"], kept["mean"], rtol=1e-9)
    stranger = panel_of({"new": waves(3, 900)["s1"]})
    shared = model.correction.detach().clone()
    with torch.no_grad():
        model.correction.zero_()
    expected = loaded.predict(panel.take([1])).table["mean"]
    with torch.no_grad():
        model.correction.copy_(shared)
    assert np.allclose(loaded.predict(stranger).table["mean"], expected, rtol=1e-9)
