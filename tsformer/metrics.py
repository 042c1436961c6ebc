"""Metrics: a pointwise statistic times an aggregation, in float64.

Every metric is a ratio of two sums over points, finished by a function (a root, say). Sums add up
over batches, means do not: no result depends on how windows were batched, and none is dropped.
Missing actuals count in neither sum. A metric without any defined point is NaN, never infinite;
a forecast that is not finite stays visible as such in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsformer.errors import ConfigError, ShapeError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Differences below this many units in the last place of the largest value carry no digits.
FLAT_ULPS = 8

AXES = ("window", "horizon", "variate")


@dataclass(frozen=True, slots=True)
class Scored:
    """Forecasts and what happened, `[window, horizon, variate]`.

    - `quantiles` `[window, horizon, variate, level]` at `levels`, or None.
    - `absolute_scale` and `square_scale`: what `seasonal_scale` says of the training part of
      each series, broadcastable to the points (`[variate]`, or `[window, 1, variate]`).
    """

    point: Floats
    actual: Floats
    observed: Bools
    quantiles: Floats | None = None
    levels: tuple[float, ...] = ()
    absolute_scale: Floats | None = None
    square_scale: Floats | None = None

    def __post_init__(self) -> None:
        shapes = {self.point.shape, self.actual.shape, self.observed.shape}
        if len(shapes) > 1 or self.point.ndim != len(AXES):
            raise ShapeError(
                f"point, actual and observed must be the same [window, horizon, variate], got "
                f"{self.point.shape}, {self.actual.shape} and {self.observed.shape}."
            )
        if self.quantiles is not None and self.quantiles.shape != (
            *self.point.shape,
            len(self.levels),
        ):
            raise ShapeError(
                f"quantiles must be [window, horizon, variate, level] for {len(self.levels)} "
                f"levels, got {self.quantiles.shape}."
            )

    def quantile(self, level: float) -> Floats:
        """The forecast quantile at `level`, which must be among the levels."""
        place = np.flatnonzero(np.isclose(self.levels, level, rtol=0, atol=1e-9))
        if self.quantiles is None or not len(place):
            raise ConfigError(
                f"This metric needs the quantile {level:g}; the forecast has "
                f"{', '.join(map(str, self.levels)) or 'none'}. Ask for it when forecasting."
            )
        return self.quantiles[..., place[0]]


Pair = tuple[Floats, Floats]  # numerator and denominator, broadcastable to the points


@dataclass(frozen=True, slots=True)
class Metric:
    """`finish(sum of numerators / sum of denominators)` over points."""

    name: str
    pair: Callable[[Scored], Pair]
    finish: Callable[[Floats], Floats] = lambda ratio: ratio

    def sums(self, scored: Scored, *, by: Sequence[str] = ()) -> Floats:
        """Both sums, `[2, *by]`, over the observed points along all axes not in `by`."""
        over = tuple(place for place, axis in enumerate(AXES) if axis not in by)
        kept = [np.where(scored.observed, part, 0.0).sum(axis=over) for part in self.pair(scored)]
        return np.stack(kept)

    def value(self, sums: Floats) -> Floats:
        """The metric of `sums`; NaN where its denominator is 0."""
        numerator, denominator = sums
        defined = denominator > 0
        ratio = numerator / np.where(defined, denominator, 1.0)
        return np.where(defined, self.finish(ratio), np.nan)


class Tally:
    """Metrics accumulated over batches of windows, kept apart along the axes `by`."""

    def __init__(self, metrics: Sequence[Metric], *, by: Sequence[str] = ()) -> None:
        unknown = [axis for axis in by if axis not in ("horizon", "variate")]
        if unknown:
            raise ConfigError(f"by must be among horizon and variate, got {unknown[0]!r}.")
        self.metrics = tuple(metrics)
        self.by = tuple(by)
        self._sums: dict[str, Floats] = {}

    def add(self, scored: Scored) -> None:
        """Counts all points of `scored`."""
        for metric in self.metrics:
            sums = metric.sums(scored, by=self.by)
            self._sums[metric.name] = self._sums.get(metric.name, 0.0) + sums

    def values(self) -> dict[str, Floats]:
        """Each metric so far, an array along `by` in the order of the axes."""
        named = {metric.name: metric for metric in self.metrics}
        return {name: named[name].value(sums) for name, sums in self._sums.items()}


def only_rounding(spread: Floats, *, largest: Floats) -> Bools:
    """Whether a `spread` among values up to `largest` in size can be rounding alone (float64)."""
    bound: Bools = spread <= FLAT_ULPS * np.finfo(np.float64).eps * largest
    return bound


def seasonal_scale(train: Floats, season: int, *, power: int) -> Floats:
    """The in-sample error of seasonal naive, `[variate]`, mean |x_t - x_(t-season)|^power.

    `train` is `[time, variate]`, NaN where missing. Power 1 scales MASE, power 2 RMSSE. NaN where
    no pair is observed; 0 where the season never changes but for rounding.
    """
    error = np.abs(train[season:] - train[: max(0, len(train) - season)])
    pairs = np.isfinite(error)
    largest = np.where(np.isfinite(train), np.abs(train), 0.0).max(axis=0, initial=0.0)
    changed = pairs & ~only_rounding(error, largest=largest)
    total = (np.where(changed, error, 0.0) ** power).sum(axis=0)
    count = pairs.sum(axis=0)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


# --- statistics of the point forecast -------------------------------------------------------


def _squared(scored: Scored) -> Pair:
    return (scored.actual - scored.point) ** 2, np.ones(1)


def _absolute(scored: Scored) -> Pair:
    return np.abs(scored.actual - scored.point), np.ones(1)


def _scaled_absolute(scored: Scored) -> Pair:
    return _over(_absolute(scored)[0], scored.absolute_scale, name="absolute_scale")


def _scaled_squared(scored: Scored) -> Pair:
    return _over(_squared(scored)[0], scored.square_scale, name="square_scale")


def _over(error: Floats, scale: Floats | None, *, name: str) -> Pair:
    """`error / scale`, left out where the scale is 0 or NaN."""
    if scale is None:
        raise ConfigError(f"This metric needs {name}: give what seasonal_scale says of training.")
    defined = scale > 0
    scaled = np.where(defined, error / np.where(defined, scale, 1.0), 0.0)
    return scaled, defined.astype(np.float64)


def _symmetric(scored: Scored) -> Pair:
    size = np.abs(scored.actual) + np.abs(scored.point)
    error = 200 * np.abs(scored.actual - scored.point)
    return error / np.where(size == 0, 1.0, size), np.ones(1)  # 0 forecast as 0 is no error


# --- statistics of the quantiles ------------------------------------------------------------


def _double_pinball(scored: Scored) -> Floats:
    """Twice the quantile loss, averaged over the levels."""
    if scored.quantiles is None:
        raise ConfigError("This metric needs quantiles; the forecast has none. Ask for levels.")
    level = np.asarray(scored.levels)
    gap = scored.actual[..., None] - scored.quantiles  # [window, horizon, variate, level]
    mean: Floats = 2 * np.maximum(level * gap, (level - 1) * gap).mean(axis=-1)
    return mean


def _weighted(scored: Scored) -> Pair:
    return _double_pinball(scored), np.abs(scored.actual)


def _ranked(scored: Scored) -> Pair:
    return _double_pinball(scored), np.ones(1)


MSE = Metric("mse", _squared)
MAE = Metric("mae", _absolute)
RMSE = Metric("rmse", _squared, np.sqrt)

# Mean absolute scaled error (Hyndman & Koehler, International Journal of Forecasting 22, 2006).
MASE = Metric("mase", _scaled_absolute)

# The M5 competition takes the root for each series and then the mean over series: `by` variate.
RMSSE = Metric("rmsse", _scaled_squared, np.sqrt)

# In percent, 0 to 200, as the M4 competition has it.
SMAPE = Metric("smape", _symmetric)

# Weighted quantile loss: 2 sum of pinball / sum of |y|, mean over levels (DeepAR, arXiv
# 1704.04110, section 4.1).
WQL = Metric("wql", _weighted)

# The continuous ranked probability score is 2 times the integral of the pinball loss over all
# levels (Laio & Tamea, Hydrology and Earth System Sciences 11, 2007); the mean over evenly spaced
# levels approximates it.
CRPS = Metric("crps", _ranked)

METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in (MSE, MAE, RMSE, MASE, RMSSE, SMAPE, WQL, CRPS)
}


def coverage(nominal: float) -> Metric:
    """The share of actuals inside the central interval of `nominal` probability, ends included."""
    low, high = _tails(nominal)

    def inside(scored: Scored) -> Pair:
        lower, upper = scored.quantile(low), scored.quantile(high)
        within = (scored.actual >= lower) & (scored.actual <= upper)
        # a bound that is not a number covers nothing, and must not pass for a bound that missed
        return np.where(np.isnan(lower) | np.isnan(upper), np.nan, within), np.ones(1)

    return Metric(f"coverage_{nominal:g}", inside)


def interval_score(nominal: float) -> Metric:
    """The width of the central interval plus 2 / (1 - nominal) times what lies outside it.

    Winkler, Journal of the American Statistical Association 67, 1972; Gneiting & Raftery, JASA
    102, 2007, equation 43.
    """
    low, high = _tails(nominal)

    def score(scored: Scored) -> Pair:
        lower, upper = scored.quantile(low), scored.quantile(high)
        beyond = np.maximum(lower - scored.actual, 0) + np.maximum(scored.actual - upper, 0)
        return upper - lower + 2 / (1 - nominal) * beyond, np.ones(1)

    return Metric(f"interval_score_{nominal:g}", score)


def _tails(nominal: float) -> tuple[float, float]:
    if not 0 < nominal < 1:
        raise ConfigError(f"The nominal coverage must lie between 0 and 1, got {nominal}.")
    return (1 - nominal) / 2, (1 + nominal) / 2
