"""Calibrated intervals: the ranks, the coverage they promise, and the unit they live in."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from tsformer.conformal import (
    LEVELS,
    Calibration,
    QuantileCalibration,
    calibrate,
    calibrate_quantiles,
    calibration_of,
)
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
    with pytest.raises(IncompatibleError, match=r"0\.005 and 0\.995, got 0\.999"):
        fitted.apply(point[:, :2], scale=scale, levels=(0.5, 0.999))
    with pytest.raises(IncompatibleError, match="2 steps, the forecast has 3"):
        fitted.apply(point, scale=scale, levels=(0.5,))
    with pytest.raises(DataError, match="step 2"):
        calibrated(torch.tensor([[1.0, math.nan]]).view(1, 2, 1))


# --- a model's own quantiles ----------------------------------------------------------------

NATIVE = (0.1, 0.5, 0.9)


def normal_quantiles(center: Tensor, *, width: float) -> Tensor:
    """What a model that believes in N(center, width) emits, `[window, horizon, variate, level]`."""
    deviates = torch.tensor([NormalDist().inv_cdf(q) for q in NATIVE], dtype=torch.float64)
    return center[..., None] + width * deviates


def adjusted(
    error: Tensor, *, width: float, scale: Tensor | None = None
) -> tuple[QuantileCalibration, Tensor]:
    """The calibration of quantiles around 0 against `error`, and the quantiles."""
    emitted = normal_quantiles(torch.zeros_like(error), width=width)
    fitted = calibrate_quantiles(
        emitted,
        target=error,
        observed=~error.isnan(),
        scale=torch.ones_like(error[:, :1]) if scale is None else scale,
        levels=NATIVE,
    )
    return fitted, emitted


def test_shifts_by_hand() -> None:
    """Nine actuals 1 to 9 and quantiles -1, 0, 1: the 9th of y - 1 is 8, the 1st of y + 1 is 2."""
    actual = torch.arange(1.0, 10.0).double().view(9, 1, 1)
    emitted = torch.tensor([-1.0, 0.0, 1.0]).double().expand(9, 1, 1, 3)
    fitted = calibrate_quantiles(
        emitted,
        target=actual,
        observed=torch.ones_like(actual, dtype=torch.bool),
        scale=torch.full((9, 1, 1), 2.0).double(),
        levels=NATIVE,
    )
    assert fitted.shifts.tolist() == [[1.0, 0.0, 4.0]]  # of a scale of 2
    one = fitted.apply(emitted[:1], scale=torch.full((1, 1, 1), 2.0).double())
    assert one.flatten().tolist() == [0.0, 0.0, 9.0]  # 1 would lie above the median


@pytest.mark.parametrize("width", [0.3, 1.0, 3.0])
def test_too_narrow_becomes_wider_and_too_wide_narrower(width: float) -> None:
    """A network that is sure of itself, or too modest, covers 80 % once it is calibrated."""
    fitted, _ = adjusted(noise(3000, horizon=1), width=width)
    new = noise(4000, horizon=1, seed=9)
    emitted = normal_quantiles(torch.zeros_like(new), width=width)
    fan = fitted.apply(emitted, scale=torch.ones(4000, 1, 1).double())
    inside = (fan[..., 0] <= new) & (new <= fan[..., 2])
    assert inside.double().mean().item() == pytest.approx(0.8, abs=0.025)
    assert torch.equal(fan[..., 1], emitted[..., 1])


@pytest.mark.parametrize("count", [19, 50])
def test_each_tail_of_adjusted_quantiles_keeps_its_promise(count: int) -> None:
    """At most 10 % below and 10 % above, for any n, on average over 4,000 calibrations."""
    trials = 4000
    errors = noise(count + 1, horizon=trials)[..., 0].exp()[..., None]  # skewed on purpose
    fitted, emitted = adjusted(errors[:-1], width=0.5)
    fan = fitted.apply(emitted[:1], scale=torch.ones(1, 1, 1).double())
    new = errors[-1:]
    margin = 3 * math.sqrt(0.1 * 0.9 / trials)
    assert (new < fan[..., 0]).double().mean().item() <= 0.1 + margin
    assert (new > fan[..., 2]).double().mean().item() <= 0.1 + margin


def test_adjusted_quantiles_never_cross_and_leave_the_median() -> None:
    """Quantiles that are far too wide on one side would end up on the wrong side of the median."""
    error = noise(50, horizon=3, variates=2) - 4
    fitted, emitted = adjusted(error, width=0.1)
    fan = fitted.apply(emitted, scale=torch.ones(50, 1, 2).double())
    assert (fan.diff(dim=-1) >= 0).all()
    assert torch.equal(fan[..., 1], emitted[..., 1])


def test_adjusted_quantiles_follow_the_unit_of_the_data() -> None:
    fans = []
    for unit in (1.0, 1000.0):
        scale = torch.full((60, 1, 1), unit).double()
        error = unit * noise(60)
        emitted = normal_quantiles(torch.zeros_like(error), width=unit * 0.4)
        fitted = calibrate_quantiles(
            emitted, target=error, observed=~error.isnan(), scale=scale, levels=NATIVE
        )
        fans.append(fitted.apply(emitted, scale=scale))
    torch.testing.assert_close(fans[1], 1000 * fans[0])


def test_adjusted_quantiles_of_a_flat_window_stay() -> None:
    fitted, emitted = adjusted(noise(30), width=2.0)
    assert torch.equal(fitted.apply(emitted[:1], scale=torch.zeros(1, 1, 1).double()), emitted[:1])


def test_a_forecast_that_failed_teaches_nothing() -> None:
    """One NaN among a thousand forecasts must not make every interval NaN."""
    point, error = torch.zeros(30, 2, 1), noise(30)
    expected = calibrated(error[:20]).residuals
    point[20:] = math.nan
    found = calibrate(
        point,
        target=error,
        observed=~error.isnan(),
        scale=torch.ones(30, 1, 1).double(),
    )
    torch.testing.assert_close(found.residuals, expected)


def test_both_kinds_of_calibration_are_stored_and_told_apart() -> None:
    of_points, (of_quantiles, _) = calibrated(noise(20)), adjusted(noise(20), width=1.0)
    assert isinstance(calibration_of(of_points.tensors()), Calibration)
    again = calibration_of(of_quantiles.tensors())
    assert isinstance(again, QuantileCalibration)
    assert again.levels == NATIVE
    assert torch.equal(again.shifts, of_quantiles.shifts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shifts": torch.zeros(4, 1)},
        {"levels": torch.tensor([0.5]), "shifts": torch.zeros(4, 2)},
        {"levels": torch.tensor([0.1, 0.9]), "shifts": torch.zeros(4, 2)},
        {"levels": torch.tensor([0.5]), "shifts": torch.tensor([[math.inf]])},
    ],
)
def test_tensors_that_shift_nothing_known_are_refused(wrong: dict[str, Tensor]) -> None:
    with pytest.raises(ArtifactError):
        calibration_of(wrong)


def test_quantiles_of_other_levels_or_a_longer_horizon_are_refused() -> None:
    fitted, emitted = adjusted(noise(20), width=1.0)
    with pytest.raises(IncompatibleError, match="3 levels, the forecast has 2"):
        fitted.apply(emitted[..., :2], scale=torch.ones(20, 1, 1))
    with pytest.raises(IncompatibleError, match="2 steps, the forecast has 4"):
        fitted.apply(torch.cat((emitted, emitted), 1), scale=torch.ones(20, 1, 1))
