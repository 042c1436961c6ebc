"""Calibrated intervals: the ranks, the coverage they promise, and the unit they live in."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from tsformer.conformal import LEVELS, Calibration, calibrate
from tsformer.errors import ArtifactError, DataError, IncompatibleError


def calibrated(
    error: Tensor, *, scale: Tensor | None = None, levels: tuple[float, ...] = LEVELS
) -> Calibration:
    """The calibration of a forecast of 0 that was wrong by `error` `[window, horizon, variate]`."""
    return calibrate(
        torch.zeros_like(error),
        target=error,
        observed=~error.isnan(),
        scale=torch.ones_like(error[:, :1]) if scale is None else scale,
        levels=levels,
    )


def noise(windows: int, *, horizon: int = 2, variates: int = 1, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(windows, horizon, variates, generator=chance, dtype=torch.float64)


@pytest.mark.parametrize(
    ("level", "by_hand"), [(0.9, 9.0), (0.91, 10.0), (0.1, 1.0), (0.2, 2.0), (0.5, 5.0), (0.99, 10)]
)
def test_ranks_by_hand(level: float, by_hand: float) -> None:
    """Ten residuals 1 to 10, or nine for the exact ranks: ceil((n + 1) q) up, the mirror down."""
    count = 9 if level in (0.9, 0.1, 0.2, 0.5) else 10
    residuals = torch.arange(1.0, count + 1).flip(0).view(-1, 1, 1)
    found = calibrated(residuals, levels=(level,)).residuals
    assert found.tolist() == [[by_hand]]


def test_lower_and_upper_tails_mirror_each_other() -> None:
    """A forecast that is wrong the other way round has the same intervals, upside down."""
    error = noise(57)
    one, other = calibrated(error).residuals, calibrated(-error).residuals
    torch.testing.assert_close(one, -other.flip(-1))


@pytest.mark.parametrize("count", [19, 50, 99])
def test_coverage_of_exchangeable_errors(count: int) -> None:
    """The guarantee: at least 80 % and at most 2 / (n + 1) more, for any n, on average.

    4,000 calibrations, each with one new error; three standard errors of their share.
    """
    trials = 4000
    errors = noise(count + 1, horizon=trials)[..., 0].exp()[..., None]  # skewed on purpose
    found = calibrated(errors[:-1], levels=(0.1, 0.9)).residuals  # [trial, level]
    new = errors[-1, :, 0]
    share = ((found[:, 0] <= new) & (new <= found[:, 1])).double().mean().item()
    margin = 3 * math.sqrt(0.8 * 0.2 / trials)
    assert 0.8 - margin <= share <= 0.8 + 2 / (count + 1) + margin


def test_gaussian_residuals_give_gaussian_quantiles() -> None:
    """Closed form: errors of N(0, 1), 9,999 at even probabilities, over half a scale."""
    error = torch.special.ndtri(torch.arange(1, 10_000, dtype=torch.float64) / 10_000)
    scale = torch.full((9999, 1, 1), 0.5, dtype=torch.float64)
    quantiles = calibrated(error.view(-1, 1, 1), scale=scale).residuals[0]
    expected = [2 * NormalDist().inv_cdf(level) for level in LEVELS]
    np.testing.assert_allclose(quantiles, expected, atol=1e-9)


def test_intervals_follow_the_unit_of_the_data() -> None:
    """Fitted on kilowatts and asked in watts, the fan is a thousand times as wide."""
    point, error = noise(40, horizon=3, variates=2), noise(40, horizon=3, variates=2, seed=1)
    scale = point[:, :1].abs() + 0.1
    fans = []
    for unit in (1.0, 1000.0):
        fitted = calibrate(
            unit * point,
            target=unit * (point + error),
            observed=torch.ones_like(point, dtype=torch.bool),
            scale=unit * scale,
        )
        fans.append(fitted.apply(unit * point, scale=unit * scale, levels=(0.05, 0.5, 0.95)))
    torch.testing.assert_close(fans[1], 1000 * fans[0])


def test_quantiles_never_cross_between_the_fitted_levels() -> None:
    fitted = calibrated(noise(13))
    levels = torch.linspace(0.01, 0.99, 331, dtype=torch.float64).tolist()
    quantiles = fitted.apply(noise(5), scale=torch.ones(5, 1, 1).double(), levels=levels)
    assert quantiles.shape == (5, 2, 1, 331)
    assert (quantiles.diff(dim=-1) >= 0).all()


def test_between_two_levels_quantiles_are_linear() -> None:
    fitted = Calibration((0.1, 0.5, 0.9), torch.tensor([[-2.0, 0.0, 4.0]], dtype=torch.float64))
    point, scale = torch.full((1, 1, 1), 10.0), torch.full((1, 1, 1), 2.0)
    fan = fitted.apply(point, scale=scale, levels=(0.1, 0.3, 0.5, 0.6, 0.9))
    torch.testing.assert_close(fan.flatten(), torch.tensor([6.0, 8.0, 10.0, 12.0, 18.0]))


def test_each_step_has_its_own_width_and_all_series_share_it() -> None:
    error = noise(200, horizon=2, variates=3) * torch.tensor([1.0, 10.0])[:, None]
    residuals = calibrated(error).residuals
    assert residuals.shape == (2, len(LEVELS))
    ratio = (residuals[1, -1] / residuals[0, -1]).item()
    assert ratio == pytest.approx(10, rel=0.3)
    pooled = error.transpose(1, 2).reshape(600, 2, 1)
    torch.testing.assert_close(calibrated(pooled).residuals, residuals)


def test_flat_windows_and_missing_actuals_are_left_out() -> None:
    """Dividing by a scale of zero would make every interval infinite."""
    error, scale = noise(30), torch.ones(30, 1, 1, dtype=torch.float64)
    expected = calibrated(error[:20]).residuals
    error[20:25] = math.nan
    scale[25:] = 0
    torch.testing.assert_close(calibrated(error, scale=scale).residuals, expected)


def test_a_flat_window_has_no_width() -> None:
    fitted = calibrated(noise(20))
    fan = fitted.apply(torch.full((1, 2, 1), 7.0), scale=torch.zeros(1, 1, 1), levels=(0.1, 0.9))
    assert (fan == 7).all()


def test_a_shorter_forecast_takes_the_first_steps() -> None:
    fitted = calibrated(noise(20, horizon=3))
    point, scale = torch.zeros(1, 3, 1), torch.ones(1, 1, 1)
    whole = fitted.apply(point, scale=scale, levels=(0.2, 0.8))
    assert torch.equal(fitted.apply(point[:, :2], scale=scale, levels=(0.2, 0.8)), whole[:, :2])


def test_tensors_and_back() -> None:
    fitted = calibrated(noise(20))
    again = Calibration.of_tensors(fitted.tensors())
    assert again.levels == fitted.levels
    assert torch.equal(again.residuals, fitted.residuals)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"levels": torch.tensor([0.5])},
        {"levels": torch.tensor([0.5]), "residuals": torch.zeros(4, 2)},
        {"levels": torch.tensor([0.5]), "residuals": torch.zeros(4)},
        {"levels": torch.tensor([0.5, 0.1]), "residuals": torch.zeros(4, 2)},
        {"levels": torch.tensor([0.1, 0.5]), "residuals": torch.tensor([[1.0, 0.0]])},
        {"levels": torch.tensor([0.5]), "residuals": torch.tensor([[math.nan]])},
    ],
)
def test_tensors_that_are_no_calibration_are_refused(wrong: dict[str, Tensor]) -> None:
    with pytest.raises(ArtifactError):
        Calibration.of_tensors(wrong)


def test_what_cannot_be_answered_says_why() -> None:
    fitted = calibrated(noise(20))
    point, scale = torch.zeros(1, 3, 1), torch.ones(1, 1, 1)
    with pytest.raises(IncompatibleError, match=r"0\.01 and 0\.99, got 0\.999"):
        fitted.apply(point[:, :2], scale=scale, levels=(0.5, 0.999))
    with pytest.raises(IncompatibleError, match="2 steps, the forecast has 3"):
        fitted.apply(point, scale=scale, levels=(0.5,))
    with pytest.raises(DataError, match="step 2"):
        calibrated(torch.tensor([[1.0, math.nan]]).view(1, 2, 1))
