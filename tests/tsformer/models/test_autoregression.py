"""The autoregression's intervals against what its docstring owns up to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.models.autoregression import AutoregressionSpec

AHEAD = 14
LEVELS = (0.1, 0.5, 0.9)


def simulated(phi: float, length: int, *, count: int = 2_000) -> Tensor:
    """Series of x_t = phi x_(t-1) + noise, `[series, length + AHEAD]`; phi 1 is a random walk."""
    torch.manual_seed(0)
    warm = 0 if phi == 1 else 100
    series = torch.randn(count, warm + length + AHEAD, dtype=torch.float64)
    for step in range(1, series.shape[1]):
        series[:, step] += phi * series[:, step - 1]
    return series[:, warm:]


def forecast(past: Tensor, levels: tuple[float, ...] = LEVELS) -> Tensor:
    """The forecast `[series, horizon, level]` of `past` `[series, time]`."""
    shape = Shape(past.shape[1], AHEAD, levels=levels)
    batch = Batch(past[..., None], torch.ones_like(past, dtype=torch.bool)[..., None])
    return AutoregressionSpec(season=7).build(shape)(batch)[:, :, 0]


@pytest.mark.parametrize(
    ("phi", "length", "shares"),
    [
        (1.0, 100, (0.77, 0.63, 0.56)),
        (1.0, 200, (0.82, 0.69, 0.66)),
        (1.0, 1_000, (0.80, 0.75, 0.76)),
        (0.8, 100, (0.79, 0.72, 0.71)),
        (0.8, 1_000, (0.80, 0.80, 0.80)),
    ],
)
def test_intervals_are_as_narrow_as_is_said(
    phi: float, length: int, shares: tuple[float, float, float]
) -> None:
    """Who plans stock by them must know how far to trust them, and no change may make them worse."""
    series = simulated(phi, length)
    low, _, high = forecast(series[:, :length]).unbind(-1)
    inside = (low <= series[:, length:]) & (series[:, length:] <= high)
    found = inside.double().mean(0)
    for ahead, share in zip((1, 7, 14), shares, strict=True):
        # Three standard errors of a share among 2,000.
        assert found[ahead - 1].item() == pytest.approx(share, abs=0.035)


def test_the_points_are_the_same_without_levels() -> None:
    """How wide the intervals are has no say in the forecast."""
    past = simulated(0.8, 100, count=50)[:, :100]
    assert torch.equal(forecast(past, levels=())[..., 0], forecast(past)[..., 1])
