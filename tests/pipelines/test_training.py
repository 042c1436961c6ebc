"""Training: what calibration costs is bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.material import Material
from pipelines.training import (
    CALIBRATION_RESIDUALS,
    CALIBRATION_WINDOWS,
    calibration_stride,
    fit_all,
    specs,
)
from tests.panels import experiment_on, hourly, waves
from tsformer.batch import Shape
from tsformer.errors import DivergedError


@pytest.mark.parametrize("variates", [1, 7, 862])
@pytest.mark.parametrize("horizon", [1, 96, 720])
@pytest.mark.parametrize("windows", [1, 100, 2_785, 1_000_000])
def test_calibration_holds_a_bounded_number_of_residuals(
    variates: int, horizon: int, windows: int
) -> None:
    """862 roads over 96 hours made 165 million residuals, which took 5 GB."""
    stride = calibration_stride(windows, Shape(context=1, horizon=horizon, variates=variates))
    taken = -(-windows // stride)
    assert taken <= CALIBRATION_WINDOWS
    assert taken * variates * horizon <= CALIBRATION_RESIDUALS
    assert taken * variates >= min(windows, 1_000)  # each step keeps its tails


def test_no_window_is_spared_without_need() -> None:
    assert calibration_stride(2_785, Shape(context=512, horizon=96, variates=7)) == 1
    assert calibration_stride(0, Shape(context=512, horizon=96, variates=7)) == 1


def test_a_season_that_a_model_leaves_open_is_that_of_the_data(tmp_path: Path) -> None:
    """Nobody should have to repeat beside each model what the data section says."""
    baselines = ["seasonal_naive", "ets", {"kind": "sarimax", "season": 24}]
    experiment = experiment_on(tmp_path, hourly(waves(1, 700)), baselines=baselines)
    found = specs(experiment, season=168)
    seasons = {kind: spec.to_mapping().get("season") for kind, spec in found.items()}
    assert seasons == {"ridge": None, "seasonal_naive": 168, "ets": 168, "sarimax": 24}


def test_a_loss_that_is_not_finite_names_series_and_time(tmp_path: Path) -> None:
    """Window 1,234 means nothing to whoever has to mend the table."""
    values = waves(3, 400)
    values["s1"] = 1e-20 * np.tile([0.0, 1.0], 200)
    values["s1"][300] = 1e25
    experiment = experiment_on(tmp_path, hourly(values), model="nlinear", training={"epochs": 1})
    with pytest.raises(DivergedError, match=r"nlinear: .*In words: s1 at 2024-01-1\d"):
        fit_all(experiment, Material.of(experiment))
