"""Heads: order of axes by hand, and quantiles that cannot cross."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tsformer.batch import Shape
from tsformer.heads import PointHead, QuantileHead, head, spread_from_median

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def test_steps_away_from_the_median_by_hand() -> None:
    raw = torch.tensor([0.0, 0.0, 7.0, 0.0, 0.0])
    step = math.log(2)  # softplus(0)
    expected = [7 - 2 * step, 7 - step, 7, 7 + step, 7 + 2 * step]
    assert spread_from_median(raw, median=2).tolist() == pytest.approx(expected)


@given(
    raw=st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5),
    median=st.integers(0, 4),
)
def test_no_raw_values_cross(raw: list[float], median: int) -> None:
    """A 90 % bound below the 10 % bound would stop whoever orders stock by it."""
    forecast = spread_from_median(torch.tensor(raw), median=median)
    assert (forecast.diff() >= 0).all()
    assert forecast[median] == raw[median]


def test_the_shape_chooses_the_head() -> None:
    point = head(6, shape=Shape(8, 4), dropout=0.0)
    quantile = head(6, shape=Shape(8, 4, levels=LEVELS), dropout=0.0)
    assert isinstance(point, PointHead)
    assert isinstance(quantile, QuantileHead)
    assert point(torch.randn(3, 6)).shape == (3, 4, 1)
    assert quantile(torch.randn(3, 6)).shape == (3, 4, 5)


def test_the_median_stands_at_its_level() -> None:
    """The point forecast is read from the level axis at `shape.point`."""
    shape = Shape(8, 2, levels=(0.1, 0.5, 0.9))
    quantile = head(1, shape=shape, dropout=0.0)
    with torch.no_grad():
        quantile.linear.weight.zero_()
        quantile.linear.bias.copy_(torch.tensor([0.0, 5.0, 0.0, 0.0, -5.0, 0.0]))
    assert quantile(torch.zeros(1, 1))[0, :, shape.point].tolist() == [5, -5]


def test_dropout_acts_after_the_linear_map_while_training_alone() -> None:
    point = PointHead(3, horizon=1000, dropout=0.5)
    features = torch.randn(1, 3)
    assert (point(features) == 0).double().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (point.eval()(features) != 0).all()
