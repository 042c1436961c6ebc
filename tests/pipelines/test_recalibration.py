"""Fresh intervals for a registered model: the same point, other bands, a version of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipelines.commands import load
from pipelines.data_section import read
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.material import Material
from pipelines.panel import Panel
from pipelines.recalibration import recalibrate
from pipelines.registry import Registry
from pipelines.sections import Window
from pipelines.train_command import train_and_register
from pipelines.training import fit_all
from pipelines.versions import ModelVersion
from tests.panels import experiment_on, hourly, waves
from tests.pipelines.homes import new_home
from tsformer.conformal import QuantileCalibration
from tsformer.errors import ConfigError

LEVELS = (0.1, 0.5, 0.9)


def experiment(folder: Path, *, noise: float, rows: int = 700) -> Experiment:
    """Waves whose last part is `noise` times as noisy as when the model was fitted."""
    values = waves(3, rows)
    random = np.random.default_rng(1)
    for i, series in enumerate(values.values()):
        series[490:] += noise * 10.0 ** (i % 3) * random.normal(size=rows - 490)
    folder.mkdir(exist_ok=True)
    return experiment_on(
        folder,
        hourly(values),
        name="waves",
        backtest={"levels": list(LEVELS), "stride": 12},
        baselines=["seasonal_naive"],
        window={"context": 72, "horizon": 24, "levels": list(LEVELS)},
    )


def panel_of(made: Experiment) -> Panel:
    return read(made.data)[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, dict[str, ModelVersion]]:
    """A ridge and a seasonal naive with quantiles of its own, fitted on calm data."""
    folder = tmp_path_factory.mktemp("trained")
    home = new_home(folder / "home")
    calm = experiment(folder / "calm", noise=0.0)
    outcome = train_and_register(calm, home=home, console=Console(quiet=True), device="cpu")
    return home, dict(outcome.versions)


def test_a_recalibrated_version_has_the_same_points_and_other_intervals(
    trained: tuple[Home, dict[str, ModelVersion]], tmp_path: Path
) -> None:
    """The world got noisier, the model is still right on average: retraining would be waste."""
    home, versions = trained
    old = versions["ridge"]
    noisy = experiment(tmp_path, noise=0.8)
    new = recalibrate(str(old), noisy, home=home, console=Console(quiet=True), device="cpu")
    assert (new.name, new.kind) == (old.name, old.kind)
    assert int(new.version) > 2
    assert f"Version {old.version} with its intervals calibrated anew" in new.description
    assert new.aliases == ()  # whoever runs the service decides
    registry = Registry(home)
    one, other = (
        load(registry, str(version)).predict(panel_of(noisy), levels=LEVELS).table
        for version in (old, new)
    )
    assert one["mean"].equals(other["mean"])
    width = (other["q0.9"] - other["q0.1"]) / (one["q0.9"] - one["q0.1"])
    assert width.min() > 2
    assert 0.7 <= new.card["metrics"]["coverage"] <= 0.9


def test_a_model_with_quantiles_keeps_its_median(
    trained: tuple[Home, dict[str, ModelVersion]], tmp_path: Path
) -> None:
    """Both at once: quantiles of the model, and what they are wrong by."""
    home, versions = trained
    old = versions["seasonal_naive"]
    assert old.card["quantiles"]["method"] == "native"
    noisy = experiment(tmp_path, noise=0.8)
    new = recalibrate(str(old), noisy, home=home, console=Console(quiet=True), device="cpu")
    after = load(Registry(home), str(new))
    assert isinstance(after.calibration, QuantileCalibration)
    assert new.card["quantiles"] == {"levels": [*LEVELS], "method": "conformal"}
    table = after.predict(panel_of(noisy), levels=LEVELS).table
    assert table["q0.5"].to_list() == pytest.approx(table["mean"].to_list(), rel=1e-12)
    assert (table["q0.1"] <= table["q0.5"]).all()


def test_older_data_than_the_model_has_seen_are_refused(
    trained: tuple[Home, dict[str, ModelVersion]], tmp_path: Path
) -> None:
    """Residuals of rows that the model was fitted on are too small to promise anything."""
    home, versions = trained
    earlier = experiment(tmp_path, noise=0.0, rows=600)
    with pytest.raises(ConfigError, match="was fitted on rows"):
        recalibrate(str(versions["ridge"]), earlier, home=home, console=Console(quiet=True))


@pytest.mark.parametrize("conformal", [False, True])
def test_conformal_in_the_experiment_calibrates_what_a_model_emits(
    tmp_path: Path, conformal: bool
) -> None:
    """Head alone, or both; and what is stored is what was fitted."""
    calm = experiment(tmp_path, noise=0.0)
    asked = replace(calm, window=replace(calm.window, conformal=conformal))
    fitted = fit_all(asked, Material.of(asked), device="cpu")
    naive = fitted["seasonal_naive"].forecaster
    assert isinstance(naive.calibration, QuantileCalibration) is conformal
    naive.save(tmp_path / "stored")
    again = Forecaster.load(tmp_path / "stored")
    panel = panel_of(calm)
    one, other = (model.predict(panel, levels=(0.2, 0.9)).table for model in (naive, again))
    assert one.equals(other)


def test_conformal_without_levels_is_refused() -> None:
    with pytest.raises(ConfigError, match="name them in 'levels'"):
        Window(conformal=True)
