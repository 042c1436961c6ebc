"""The rules by hand, and their intervals against what they promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError
from tsformer.models.naive import LastValueSpec, SeasonalNaiveSpec, seasonal_deviation

NAN = math.nan


def batch_of(*series: list[float]) -> Batch:
    """One window a series; NaN is missing."""
    past = torch.tensor(series, dtype=torch.float64)[..., None]  # [batch, time, variate]
    return Batch(past, ~past.isnan())


def seasonal(batch: Batch, *, season: int, horizon: int, levels: tuple[float, ...] = ()) -> Tensor:
    shape = Shape(batch.past.shape[1], horizon, levels=levels)
    return SeasonalNaiveSpec(season=season).build(shape)(batch)[:, :, 0]  # [batch, horizon, level]


def test_last_value_repeats_the_last_that_was_seen() -> None:
    batch = batch_of([1, 2, 3], [1, 2, NAN], [NAN, NAN, NAN])
    forecast = LastValueSpec().build(Shape(3, 2))(batch)
    assert forecast[:, :, 0, 0].tolist() == [[3, 3], [2, 2], [0, 0]]


def test_a_season_is_repeated() -> None:
    """Seven steps of context do not hold whole seasons of three: the newest steps count."""
    forecast = seasonal(batch_of([9, 9, 9, 9, 1, 2, 3]), season=3, horizon=7)
    assert forecast[0, :, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]


def test_gaps_reach_back_a_season_and_then_to_the_last_value() -> None:
    """Phase 1 is missing once, phase 2 always."""
    forecast = seasonal(batch_of([1, 2, NAN, 4, NAN, NAN]), season=3, horizon=3)
    assert forecast[0, :, 0].tolist() == [4, 2, 4]


def test_a_season_longer_than_the_context_falls_back_to_the_last_value() -> None:
    forecast = seasonal(batch_of([1, 2]), season=4, horizon=4)
    assert forecast[0, :, 0].tolist() == [2, 2, 1, 2]


@pytest.mark.parametrize("season", [1, 7, 24])
def test_a_periodic_series_is_exact_without_width(season: int) -> None:
    wave = torch.sin(torch.arange(24 * 7 * 3) % season).double()
    past, future = wave[: 24 * 7 * 2, None][None], wave[24 * 7 * 2 :]
    batch = Batch(past, torch.ones_like(past, dtype=torch.bool))
    forecast = seasonal(batch, season=season, horizon=len(future), levels=(0.1, 0.5, 0.9))
    assert torch.equal(forecast[0], future[:, None].expand(-1, 3))


def test_quantiles_by_hand() -> None:
    """FPP3 table 5.2: sigma 2 here, 1.2816 deviations at 0.9, wider by sqrt(k) each season."""
    batch = batch_of([0, 10, 2, 8, 4, 10])  # seasonal differences 2, -2, 2, 2
    forecast = seasonal(batch, season=2, horizon=5, levels=(0.1, 0.5, 0.9))[0]
    assert forecast[:, 1].tolist() == [4, 10, 4, 10, 4]
    width = [1.2815515655446004 * 2 * math.sqrt(k) for k in (1, 1, 2, 2, 3)]
    torch.testing.assert_close(forecast[:, 2] - forecast[:, 1], torch.tensor(width).double())
    torch.testing.assert_close(forecast[:, 1] - forecast[:, 0], torch.tensor(width).double())


def test_random_walks_fall_inside_as_often_as_promised() -> None:
    """80 % intervals of 2,000 random walks hold 80 % of them, at step 1 and at step 20."""
    torch.manual_seed(0)
    walks = torch.randn(2000, 220, 1, dtype=torch.float64).cumsum(1)
    past = walks[:, :200]
    batch = Batch(past, torch.ones_like(past, dtype=torch.bool))
    model = LastValueSpec().build(Shape(200, 20, levels=(0.1, 0.5, 0.9)))
    low, _, high = model(batch)[:, :, 0].unbind(-1)  # [batch, horizon]
    inside = (low <= walks[:, 200:, 0]) & (walks[:, 200:, 0] <= high)
    for step in (0, 9, 19):
        # Three standard errors of a share of 0.8 among 2,000, and what sigma is unsure of.
        assert inside[:, step].double().mean() == pytest.approx(0.8, abs=0.035)


def test_a_silence_widens_the_intervals() -> None:
    """A walk goes on while nobody looks: 80 % of the walks, whichever of them fell silent when."""
    torch.manual_seed(0)
    walks = torch.randn(2000, 220, 1, dtype=torch.float64).cumsum(1)
    past = walks[:, :200]
    silence = torch.arange(2000) % 21
    observed = torch.arange(200) < 200 - silence[:, None]
    model = LastValueSpec().build(Shape(200, 20, levels=(0.1, 0.5, 0.9)))
    low, middle, high = model(Batch(past, observed[..., None]))[:, :, 0].unbind(-1)
    inside = (low <= walks[:, 200:, 0]) & (walks[:, 200:, 0] <= high)
    for step in (0, 9, 19):
        assert inside[:, step].double().mean() == pytest.approx(0.8, abs=0.035)
    sigma = seasonal_deviation(past, observed[..., None], season=1)[:, 0]
    steps = silence[:, None] + torch.arange(1, 21)
    expected = 1.2815515655446004 * sigma * steps.double().sqrt()
    torch.testing.assert_close(high - middle, expected)


def test_seasons_count_from_the_value_that_is_repeated() -> None:
    """Phase 0 was last seen two seasons ago, phase 1 one, phase 2 never: four steps of silence."""
    batch = batch_of([0, 1, NAN, 2, 5, NAN, NAN, 9, NAN], [0, 1, NAN, 2, 5, NAN, NAN, NAN, NAN])
    forecast = seasonal(batch, season=3, horizon=6, levels=(0.1, 0.5, 0.9))
    assert forecast[:, :3, 1].tolist() == [[2, 9, 9], [2, 5, 5]]
    sigma = [math.sqrt((4 + 16 + 16) / 3), math.sqrt((4 + 16) / 2)]
    seasons = [[2, 1, 2, 3, 2, 3], [2, 2, 3, 3, 3, 4]]
    width = [
        [1.2815515655446004 * s * math.sqrt(k) for k in row]
        for s, row in zip(sigma, seasons, strict=True)
    ]
    torch.testing.assert_close(forecast[..., 2] - forecast[..., 1], torch.tensor(width).double())


def test_without_seasonal_differences_neighbours_give_the_width() -> None:
    batch = batch_of([1, 2, 4])
    assert seasonal_deviation(batch.past, batch.observed, season=5).item() == math.sqrt(2.5)
    batch = batch_of([NAN, 2, NAN])
    assert seasonal_deviation(batch.past, batch.observed, season=2).item() == 0


@pytest.mark.parametrize("wrong", [{"season": -1}, {"season": "day"}, {"season": 2.5}])
def test_a_season_is_a_whole_number(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="season"):
        SeasonalNaiveSpec.from_mapping(wrong)


def test_the_rule_is_not_built_without_its_season() -> None:
    with pytest.raises(ConfigError, match="season"):
        SeasonalNaiveSpec().build(Shape(4, 2))
