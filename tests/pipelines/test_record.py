"""Figures of a training: what a band says is what was forecast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.charts import fan_charts
from pipelines.material import Material
from pipelines.training import Fitted, fit_all
from tests.panels import experiment_on, hourly, waves

TINY = {"epochs": 1, "windows_per_epoch": 16}


def fitted_on(folder: Path, **sections: object) -> tuple[Material, Fitted]:
    experiment = experiment_on(folder, hourly(waves(6, 700)), baselines=[], **sections)
    material = Material.of(experiment)
    return material, next(iter(fit_all(experiment, material, device="cpu").values()))


def test_a_chart_shows_its_own_series_and_a_fan_that_can_be_seen(tmp_path: Path) -> None:
    """A fan of 24 steps behind 200 of history is a sliver nobody can judge."""
    window = {"context": 120, "horizon": 24}
    material, fitted = fitted_on(tmp_path, window=window)
    charts = fan_charts(material, fitted.forecaster)
    assert [chart.title for chart in charts] == ["s0", "s1", "s2", "s3"]
    for place, chart in enumerate(charts):
        series = material.panel.target[place * 700 : (place + 1) * 700]
        assert np.array_equal(chart.history, series[700 - 24 - 72 : 700 - 24])
        assert chart.actual is not None
        assert np.array_equal(chart.actual, series[-24:])
        assert len(chart.times) == 72
        assert len(chart.future_times) == 24
        low, high = chart.bands[0.1, 0.9]
        assert (low < high).all()


@pytest.mark.parametrize(
    ("levels", "banded"),
    [
        ([0.05, 0.5, 0.95], True),
        ([0.1, 0.5, 0.9], True),
        ([0.25, 0.5, 0.75], False),
    ],
)
def test_a_band_is_drawn_only_where_the_levels_reach(
    tmp_path: Path, levels: list[float], banded: bool
) -> None:
    """A band of width 0, or that of other levels, would claim a certainty that is not there."""
    window = {"context": 48, "horizon": 12, "levels": levels}
    scored = {"levels": [0.5], "coverage": 0.4}
    material, fitted = fitted_on(
        tmp_path, window=window, model={"kind": "rlinear"}, training=TINY, backtest=scored
    )
    for chart in fan_charts(material, fitted.forecaster):
        assert [*chart.bands] == ([(0.1, 0.9)] if banded else [])
        for low, high in chart.bands.values():
            assert (low < high).all()
