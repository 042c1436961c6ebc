"""Rules without weights: the last value, and the last season, with quantiles in closed form.

Hyndman & Athanasopoulos, "Forecasting: Principles and Practice", 3rd edition, sections 5.2
(rules) and 5.5 (prediction intervals of benchmark methods).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, unlike
from tsformer.model import Capabilities, Model, ModelSpec


@dataclass(frozen=True, slots=True)
class LastValueSpec(ModelSpec):
    """Every step repeats the last observed value."""

    kind: ClassVar[str] = "last_value"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True)

    def build(self, shape: Shape) -> Model:
        return SeasonalNaive(shape, season=1)


@dataclass(frozen=True, slots=True)
class SeasonalNaiveSpec(ModelSpec):
    """Every step repeats the last observed value a whole number of seasons ago.

    `season` is in steps; 0 leaves it to the data and must be replaced before the rule is built.
    """

    kind: ClassVar[str] = "seasonal_naive"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True)

    season: int = 0

    def __post_init__(self) -> None:
        if self.season < 0:
            raise unlike("season must be a whole number of steps", repr(self.season))

    def build(self, shape: Shape) -> Model:
        if not self.season:
            raise ConfigError("seasonal_naive needs its season in steps, as 24 for hourly days.")
        return SeasonalNaive(shape, season=self.season)


class SeasonalNaive(Model):
    """The last season repeated; season 1 repeats the last value.

    Quantiles are point + z sigma sqrt(k), with z that of the normal distribution, k the seasons
    since the value that is repeated, 1 + floor((h - 1) / season) at step h where none is missing
    (FPP3, table 5.2), and sigma the root mean square of the seasonal differences inside the
    context: a series in any unit gets its own width, and a periodic one has none.

    A phase of the season that was never observed takes the last observed value of any phase,
    and k counts the seasons begun since that one. A window without any observed value is forecast
    as 0. Where no seasonal difference is observed, sigma comes from the differences of
    neighbouring steps.
    """

    deviates: Tensor

    def __init__(self, shape: Shape, *, season: int) -> None:
        super().__init__(shape)
        self.season = season
        deviates = torch.tensor(
            [NormalDist().inv_cdf(level) for level in shape.levels], dtype=torch.float64
        )
        self.register_buffer("deviates", deviates, persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        steps = torch.arange(self.shape.horizon, device=batch.past.device)
        return self.at(batch, steps.expand(len(batch.past), -1))

    def at(self, batch: Batch, steps: Tensor) -> Tensor:
        """The forecast of each window's own `steps` `[batch, step]`, counted from 0.

        So a window that was cut off where its series ended is continued past its own end.
        """
        cycle, age = last_season(batch.past, batch.observed, season=self.season)
        phase = (steps % self.season).unsqueeze(-1).expand(-1, -1, cycle.shape[2])
        point = cycle.gather(1, phase).unsqueeze(-1)  # [batch, step, variate, level]
        if not self.shape.levels:
            return point
        sigma = seasonal_deviation(batch.past, batch.observed, season=self.season)
        seasons = (steps // self.season).unsqueeze(-1) + age.gather(1, phase)
        spread = sigma * seasons.to(sigma).sqrt()  # [batch, step, variate]
        return point + spread.unsqueeze(-1) * self.deviates.to(point)


def last_season(values: Tensor, observed: Tensor, *, season: int) -> tuple[Tensor, Tensor]:
    """What follows for each phase of the coming season, and its age, `[batch, season, variate]`.

    The last observed value of the same phase in `values` `[batch, time, variate]`, else the last
    observed value, else 0. The age is in seasons, begun ones too, up to the step that follows.
    """
    time = values.shape[1]
    missing = -time % season  # so that whole seasons end at the cutoff
    known = torch.where(observed, values, 0)
    cycles = _padded(known, missing).unflatten(1, (-1, season))  # [batch, cycle, phase, variate]
    seen = _padded(observed, missing).unflatten(1, (-1, season))
    latest, silence = _last(known, observed)
    same_phase, cycles_since = _last(cycles, seen)
    phases = torch.arange(season, device=values.device).unsqueeze(-1)  # [phase, variate]
    begun = (silence[:, None] + phases) // season
    any_seen = seen.any(1)
    cycle = torch.where(any_seen, same_phase, latest[:, None])  # [batch, phase, variate]
    return cycle, 1 + torch.where(any_seen, cycles_since, begun)


def seasonal_deviation(values: Tensor, observed: Tensor, *, season: int) -> Tensor:
    """The root mean square of x_t - x_(t-season) within each window, `[batch, 1, variate]`."""
    seasonal, pairs = _rms_difference(values, observed, lag=season)
    neighbouring, _ = _rms_difference(values, observed, lag=1)
    return torch.where(pairs > 0, seasonal, neighbouring)


def _rms_difference(values: Tensor, observed: Tensor, *, lag: int) -> tuple[Tensor, Tensor]:
    """The root mean square of the differences at `lag`, and how many were observed."""
    pairs = observed[:, lag:] & observed[:, :-lag]
    difference = torch.where(pairs, values[:, lag:] - values[:, :-lag], 0)
    count = pairs.sum(1, keepdim=True)
    if not difference.shape[1]:
        return torch.zeros_like(values[:, :1]), count
    # Of the largest difference, so that the square of a huge or tiny one is not lost.
    largest = difference.abs().amax(1, keepdim=True)
    share = torch.where(largest > 0, difference / largest, 0)
    return largest * (share.square().sum(1, keepdim=True) / count.clamp(min=1)).sqrt(), count


def _last(values: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """The last observed entry along axis 1, and how many follow it; the first if there is none."""
    order = torch.arange(1, values.shape[1] + 1, device=values.device)
    rank = order.view(-1, *[1] * (values.ndim - 2)) * observed
    place = rank.argmax(1, keepdim=True)
    return values.gather(1, place).squeeze(1), values.shape[1] - 1 - place.squeeze(1)


def _padded(values: Tensor, count: int) -> Tensor:
    """`values` with `count` zero steps (unobserved, if bool) before them."""
    head = values.new_zeros((len(values), count, values.shape[2]))
    return torch.cat((head, values), 1)
