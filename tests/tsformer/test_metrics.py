"""Metrics by hand, against utilsforecast, and cut into batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import utilsforecast.losses as oracle

from tsformer.errors import ConfigError, ShapeError
from tsformer.metrics import (
    CRPS,
    MAE,
    MASE,
    METRICS,
    MSE,
    RMSE,
    RMSSE,
    SMAPE,
    WQL,
    Floats,
    Metric,
    Scored,
    Tally,
    coverage,
    interval_score,
    seasonal_scale,
)

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
SEASON = 4
ALL = (*METRICS.values(), coverage(0.8), interval_score(0.8))


def scored(windows: int = 9, *, horizon: int = 6, variates: int = 3, seed: int = 0) -> Scored:
    """Forecasts around random actuals, a fifth of which is missing."""
    chance = np.random.default_rng(seed)
    size = (windows, horizon, variates)
    point = chance.normal(10, 3, size)
    return Scored(
        point=point,
        actual=np.where(chance.random(size) < 0.2, np.nan, point + chance.normal(0, 1, size)),
        observed=np.ones(size, dtype=bool),
        quantiles=point[..., None] + np.sort(chance.normal(0, 1, (*size, 5)), axis=-1),
        levels=LEVELS,
        absolute_scale=np.array([0.5, 1.0, 2.0]),
        square_scale=np.array([0.4, 1.5, 5.0]),
    )


def masked(found: Scored) -> Scored:
    return replace(found, observed=np.isfinite(found.actual))


def of(metric: Metric, found: Scored) -> float:
    return float(metric.value(metric.sums(found)))


def one(point: list[float], actual: list[float], **rest: object) -> Scored:
    """One window of one series."""
    as_points = [np.array(values, dtype=float).reshape(1, -1, 1) for values in (point, actual)]
    observed = np.isfinite(as_points[1])
    return Scored(as_points[0], as_points[1], observed, **rest)  # type: ignore[arg-type]


def test_point_metrics_by_hand() -> None:
    """Errors 1, -2, 0; the fourth actual is missing."""
    found = one([2, 0, 5, 7], [1, 2, 5, np.nan])
    assert of(MSE, found) == pytest.approx(5 / 3)
    assert of(RMSE, found) == pytest.approx(np.sqrt(5 / 3))
    assert of(MAE, found) == pytest.approx(1)
    assert of(SMAPE, found) == pytest.approx(100 * (2 * 1 / 3 + 2 * 2 / 2 + 0) / 3)


def test_quantile_metrics_by_hand() -> None:
    """The interval is [1, 4] for actuals 2 (inside) and 6 (2 above)."""
    quantiles = np.array([[1.0, 4.0], [1.0, 4.0]]).reshape(1, 2, 1, 2)
    found = one([2, 2], [2, 6], quantiles=quantiles, levels=(0.1, 0.9))
    assert of(coverage(0.8), found) == 0.5
    assert of(interval_score(0.8), found) == pytest.approx((3 + (3 + 2 / 0.2 * 2)) / 2)
    pinball = [(0.1 * 1 + 0.1 * 2) / 2, (0.1 * 5 + 0.9 * 2) / 2]
    assert of(CRPS, found) == pytest.approx(2 * sum(pinball) / 2)
    assert of(WQL, found) == pytest.approx(2 * sum(pinball) / 8)


def test_zero_forecast_as_zero_is_no_error() -> None:
    assert of(SMAPE, one([0, 1], [0, 1])) == 0


def test_mase_of_the_in_sample_seasonal_naive_is_one() -> None:
    """Hyndman & Koehler 2006: below 1 is better than naive was on the training part."""
    series = np.random.default_rng(0).normal(size=(40, 2))
    found = Scored(
        series[:-SEASON][None],
        series[SEASON:][None],
        np.ones((1, 36, 2), dtype=bool),
        absolute_scale=seasonal_scale(series, SEASON, power=1),
        square_scale=seasonal_scale(series, SEASON, power=2),
    )
    for metric in (MASE, RMSSE):
        np.testing.assert_allclose(metric.value(metric.sums(found, by=("variate",))), [1, 1])


def frame(found: Scored) -> pd.DataFrame:
    """The points of the only window, a row each, as the oracle wants them."""
    _, horizon, variates = found.point.shape
    assert found.quantiles is not None
    columns = {
        "unique_id": np.repeat(np.arange(variates), horizon),
        "ds": np.tile(np.arange(horizon), variates),
        "y": found.actual[0].T.ravel(),
        "m": found.point[0].T.ravel(),
        "m-lo-80": found.quantile(0.1)[0].T.ravel(),
        "m-hi-80": found.quantile(0.9)[0].T.ravel(),
    }
    by_level = {f"q{q}": found.quantile(q)[0].T.ravel() for q in LEVELS}
    return pd.DataFrame({**columns, **by_level}).dropna()


def training(series: Floats) -> pd.DataFrame:
    time, variates = series.shape
    return pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(variates), time),
            "ds": np.tile(np.arange(time) - time, variates),
            "y": series.T.ravel(),
        }
    )


def by_oracle(found: Scored, series: Floats) -> dict[str, Floats]:
    """Each metric per series as utilsforecast computes it."""
    table, train = frame(found), training(series)
    quantiles = {"m": [f"q{q}" for q in LEVELS]}
    scaled = {"seasonality": SEASON, "train_df": train}
    return {
        "mse": oracle.mse(table, ["m"])["m"],
        "mae": oracle.mae(table, ["m"])["m"],
        "rmse": oracle.rmse(table, ["m"])["m"],
        "mase": oracle.mase(table, ["m"], **scaled)["m"],
        "rmsse": oracle.rmsse(table, ["m"], **scaled)["m"],
        "smape": 200 * oracle.smape(table, ["m"])["m"],
        "wql": oracle.scaled_crps(table, quantiles, np.array(LEVELS))["m"],
        "crps": 2 * oracle.mqloss(table, quantiles, np.array(LEVELS))["m"],
        "coverage_0.8": oracle.coverage(table, ["m"], 80)["m"],
        "interval_score_0.8": oracle.winkler_score(table, ["m"], 80)["m"],
    }


def test_every_metric_is_that_of_utilsforecast() -> None:
    """A number on our leaderboard can be compared with those of others."""
    series = np.random.default_rng(1).normal(size=(50, 3)).cumsum(axis=0)
    found = replace(
        masked(scored(windows=1, horizon=40)),
        absolute_scale=seasonal_scale(series, SEASON, power=1),
        square_scale=seasonal_scale(series, SEASON, power=2),
    )
    expected = by_oracle(found, series)
    assert set(expected) == {metric.name for metric in ALL}
    for metric in ALL:
        ours = metric.value(metric.sums(found, by=("variate",)))
        np.testing.assert_allclose(ours, expected[metric.name], rtol=1e-12, err_msg=metric.name)


@pytest.mark.parametrize("by", [(), ("horizon",), ("variate",), ("horizon", "variate")])
@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_results_do_not_depend_on_the_batch_size(size: int, by: tuple[str, ...]) -> None:
    """The mean of batch means weighs a last, smaller batch too much: sums do not."""
    found = masked(scored())
    whole, parts = Tally(ALL, by=by), Tally(ALL, by=by)
    whole.add(found)
    for start in range(0, 9, size):
        rows = slice(start, start + size)
        assert found.quantiles is not None
        parts.add(
            replace(
                found,
                point=found.point[rows],
                actual=found.actual[rows],
                observed=found.observed[rows],
                quantiles=found.quantiles[rows],
            )
        )
    for name, value in whole.values().items():
        np.testing.assert_allclose(parts.values()[name], value, rtol=1e-12, err_msg=name)


def test_axes_of_a_tally() -> None:
    tally = Tally(ALL, by=("horizon", "variate"))
    tally.add(masked(scored()))
    assert {value.shape for value in tally.values().values()} == {(6, 3)}
    with pytest.raises(ConfigError, match="by"):
        Tally(ALL, by=("window",))


def test_undefined_is_nan_and_never_infinite() -> None:
    """A constant series has no MASE; it is left out, not counted as infinitely bad."""
    found = masked(scored())
    flat = replace(found, absolute_scale=np.array([0.0, np.nan, 2.0]))
    per_series = MASE.value(MASE.sums(flat, by=("variate",)))
    assert np.isnan(per_series).tolist() == [True, True, False]
    assert of(MASE, flat) == pytest.approx(per_series[2])
    nothing = replace(found, observed=np.zeros_like(found.observed))
    assert all(np.isnan(of(metric, nothing)) for metric in ALL)
    zeros = one([0, 0], [0, 0], quantiles=np.zeros((1, 2, 1, 1)), levels=(0.5,))
    assert np.isnan(of(WQL, zeros))


def test_a_forecast_that_is_not_finite_is_not_hidden() -> None:
    found = masked(scored())
    found.point[0, 0, 0] = np.nan
    found.actual[0, 0, 0], found.observed[0, 0, 0] = 1.0, True
    for metric in (MSE, MAE, RMSE, MASE, RMSSE, SMAPE):
        assert np.isnan(of(metric, found)), metric.name


def test_seasonal_scale_by_hand() -> None:
    """Seasonal differences 2, 2 and 4 in the first series; the second lacks a value."""
    series = np.array([[0.0, 1.0], [0.0, 5.0], [2.0, np.nan], [2.0, 8.0], [6.0, 9.0]])
    np.testing.assert_allclose(seasonal_scale(series, 2, power=1), [8 / 3, 3])
    np.testing.assert_allclose(seasonal_scale(series, 2, power=2), [24 / 3, 9])
    assert np.isnan(seasonal_scale(series, 5, power=1)).all()
    assert np.isnan(seasonal_scale(series, 50, power=1)).all()
    assert (seasonal_scale(np.ones((9, 2)), 2, power=1) == 0).all()


def test_the_crps_of_a_normal_is_its_closed_form() -> None:
    """Gneiting & Raftery 2007: s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) at y = z s."""
    from scipy.stats import norm

    levels = np.arange(0.005, 1, 0.01)
    for z in (0.0, 0.7, -2.0):
        quantiles = norm.ppf(levels).reshape(1, 1, 1, -1)
        found = one([0], [z], quantiles=quantiles, levels=tuple(levels))
        closed = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
        assert of(CRPS, found) == pytest.approx(closed, rel=2e-3)


def test_what_is_lacking_is_named() -> None:
    found = one([1], [1])
    with pytest.raises(ConfigError, match="levels"):
        of(WQL, found)
    with pytest.raises(ConfigError, match=r"0\.1"):
        of(coverage(0.8), found)
    with pytest.raises(ConfigError, match="absolute_scale"):
        of(MASE, found)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        coverage(80)
    with pytest.raises(ShapeError, match="same"):
        Scored(np.zeros((1, 2, 1)), np.zeros((1, 3, 1)), np.zeros((1, 2, 1), dtype=bool))
