"""Losses by hand, under masks, and at their optimum."""

from __future__ import annotations

import math

import pytest
import torch

from tsformer.batch import Target
from tsformer.errors import ConfigError
from tsformer.losses import LOSSES

# Errors of the point forecast 1, -2, 0 and one that was never seen.
FORECAST = torch.tensor([2.0, 0.0, 5.0, 7.0]).view(1, 4, 1, 1)  # [batch, horizon, variate, level]
TARGET = Target(
    torch.tensor([1.0, 2.0, 5.0, math.nan]).view(1, 4, 1),
    torch.tensor([True, True, True, False]).view(1, 4, 1),
)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [("mse", (1 + 4 + 0) / 3), ("mae", (1 + 2 + 0) / 3), ("huber", (0.5 + 1.5 + 0) / 3)],
)
def test_point_losses_by_hand(name: str, by_hand: float) -> None:
    assert LOSSES[name](FORECAST, TARGET, ()).item() == pytest.approx(by_hand)


def test_pinball_by_hand() -> None:
    """y = 1, f = 2: too high costs 1 - q; y = 2, f = 0: too low costs q a unit."""
    forecast = FORECAST.expand(-1, -1, -1, 3)
    levels = (0.1, 0.5, 0.9)
    by_hand = sum((1 - q) * 1 + q * 2 for q in levels) / 3 / 3
    assert LOSSES["pinball"](forecast, TARGET, levels).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("name", LOSSES)
def test_what_was_not_observed_has_neither_loss_nor_gradient(name: str) -> None:
    """One NaN in a gradient ends a training of hours."""
    forecast = FORECAST.repeat(1, 1, 1, 3).requires_grad_()
    LOSSES[name](forecast, TARGET, (0.1, 0.5, 0.9)).backward()
    assert forecast.grad is not None
    assert forecast.grad.isfinite().all()
    assert (forecast.grad[:, 3] == 0).all()
    assert (forecast.grad[:, 0] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_observed_is_zero(name: str) -> None:
    target = Target(TARGET.values, torch.zeros_like(TARGET.observed))
    forecast = FORECAST.repeat(1, 1, 1, 3).requires_grad_()
    loss = LOSSES[name](forecast, target, (0.1, 0.5, 0.9))
    loss.backward()
    assert loss.item() == 0
    assert forecast.grad is not None
    assert (forecast.grad == 0).all()


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_point_losses_judge_the_median(name: str) -> None:
    spread = torch.cat((FORECAST - 100, FORECAST, FORECAST + 100), -1)
    loss = LOSSES[name]
    assert torch.equal(loss(spread, TARGET, (0.1, 0.5, 0.9)), loss(FORECAST, TARGET, ()))


@pytest.mark.parametrize(("level", "quantile"), [(0.1, -1.2816), (0.5, 0.0), (0.9, 1.2816)])
def test_the_pinball_optimum_of_a_normal_is_its_quantile(level: float, quantile: float) -> None:
    """Koenker & Bassett 1978: the sample is the 20,000 quantiles of N(0, 1) themselves."""
    sample = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    target = Target(sample.view(-1, 1, 1), torch.ones(20_000, 1, 1, dtype=torch.bool))

    def loss(at: float) -> float:
        forecast = torch.full((20_000, 1, 1, 1), at, dtype=torch.float64)
        return LOSSES["pinball"](forecast, target, (level,)).item()

    around = [quantile + offset / 1000 for offset in range(-500, 501, 5)]
    assert min(around, key=loss) == pytest.approx(quantile, abs=6e-3)


def test_pinball_without_levels_is_refused() -> None:
    with pytest.raises(ConfigError, match="levels"):
        LOSSES["pinball"](FORECAST, TARGET, ())
