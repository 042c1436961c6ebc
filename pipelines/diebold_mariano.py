"""The Diebold-Mariano test: is one forecaster's loss lower, or was it lucky on these cutoffs?

Diebold & Mariano, Journal of Business & Economic Statistics 13, 1995: a t-test on the differences
of two losses, with a variance that knows how the differences depend on one another. An observation
is a cutoff, its loss the mean over the horizon (Quaedvlieg, JBES 39, 2021) and over the series
(the panel test of Timmermann & Zhu, CEPR DP13746, 2019, and Akgun, Pirotte, Urga & Yang, arXiv
2003.02803): whatever the series share cannot count as many observations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsformer.metrics import only_rounding

Floats = NDArray[np.float64]

# Cutoffs that do not overlap below which nothing is claimed: with four the test still has its
# nominal size on overlapping errors (tests/pipelines/test_diebold_mariano.py), but hardly power.
LEAST_APART = 4


@dataclass(frozen=True, slots=True)
class DieboldMariano:
    """What the differences of two losses say; `mean` below 0 speaks for the first forecaster.

    `p` is the probability of a statistic this low if both were equally good, from Student's t with
    `degrees` of freedom. `apart` of the `cutoffs` do not overlap.
    """

    mean: float
    statistic: float
    degrees: float
    p: float
    cutoffs: int
    apart: int
    lag: int

    @property
    def enough(self) -> bool:
        """Whether there are cutoffs enough to claim anything."""
        return self.apart >= LEAST_APART


def diebold_mariano(differences: Floats, *, overlap: int, lag: int) -> DieboldMariano:
    """The test on `differences` `[cutoff]`, in the order of time.

    The horizon of each cutoff reaches over `overlap` later ones. The long-run variance takes the
    autocovariances up to `lag` with Bartlett's weights (Newey & West, Econometrica 55, 1987), so
    it is never negative. Harvey, Leybourne & Newbold (International Journal of Forecasting 13,
    1997) scale the statistic by how much of the variance the estimator sees on average in a small
    sample. Deviations: they have flat weights and independent differences, for which
    `share_seen` gives their factor; here the weights are Bartlett's, and overlapping means are
    known to be correlated. Their degrees of freedom, cutoffs - 1, are divided by the sum of the
    squared weights, since the variance is estimated from no more than that (Priestley, Spectral
    Analysis and Time Series, 1981, section 6.2).
    """
    from scipy.special import stdtr  # late: a server would wait a quarter of a second for it

    count = len(differences)
    differences = np.where(np.isfinite(differences), differences, np.nan)
    if count < 2:  # nothing varies
        mean = float(differences.sum()) if count else math.nan
        return DieboldMariano(mean, math.nan, 0.0, math.nan, count, count // (overlap + 1), lag)
    weights = bartlett(count, lag)
    mean = float(differences.mean())
    spread, largest = np.ptp(differences, keepdims=True), np.abs(differences).max(keepdims=True)
    # of equal differences nothing is left but rounding
    centred = np.where(only_rounding(spread, largest=largest), 0.0, differences - mean)
    moments = np.correlate(centred, centred, "full")[count - 1 :] / count  # [cutoff]
    seen = share_seen(weights, overlap_correlations(count, overlap))
    variance = max(0.0, float(_sides(weights) @ moments)) / seen  # max(): rounding
    statistic = _ratio(mean, math.sqrt(variance / count))
    degrees = (count - 1) / float(_sides(weights) @ weights)
    return DieboldMariano(
        mean=mean,
        statistic=statistic,
        degrees=degrees,
        p=float(stdtr(degrees, statistic)),
        cutoffs=count,
        apart=count // (overlap + 1),
        lag=lag,
    )


def _ratio(mean: float, error: float) -> float:
    """`mean` in units of its `error`: without any error, none is 0 and any other is endless."""
    if error or not math.isfinite(mean):
        return mean / error if error else math.nan
    return math.copysign(math.inf, mean) if mean else 0.0


def lag_for(cutoffs: int, *, overlap: int) -> int:
    """How far apart two of `cutoffs` may be and still be thought to depend on each other.

    Twice the overlap, since Bartlett's weights fall to half there, and no less than the rule
    4 (n / 100)^(2/9) of Newey & West (Review of Economic Studies 61, 1994), for what outlasts it.
    """
    rule = int(4 * (cutoffs / 100) ** (2 / 9))
    return max(0, min(cutoffs - 2, max(2 * overlap, rule)))


def bartlett(count: int, lag: int) -> Floats:
    """Bartlett's weights of the lags 0 to `count` - 1: falling on a line, 0 beyond `lag`."""
    weights: Floats = np.clip(1 - np.arange(count) / (lag + 1), 0, None)
    return weights


def overlap_correlations(count: int, overlap: int) -> Floats:
    """How means over a horizon that reaches over `overlap` cutoffs are correlated, lag by lag.

    Of independent errors: two means have as much in common as their horizons.
    """
    return bartlett(count, overlap)


def share_seen(weights: Floats, correlations: Floats) -> float:
    """The mean of the variance estimated with `weights`, as a share of the variance it estimates.

    Both are given lag by lag. For differences that are as `correlations` say: with their mean
    taken out, they vary less than without. The trace of W M R M over that of 1'R1 / n, W and R the
    matrices of the weights and correlations, M = 1 - 11'/n.
    """
    count = len(weights)
    pairs = count - np.arange(count)  # of cutoffs at each lag
    by_weight, by_correlation = _row_sums(weights), _row_sums(correlations)
    trace = _sides(weights * correlations) @ pairs - 2 / count * (by_weight @ by_correlation)
    trace += by_weight.sum() * by_correlation.sum() / count**2
    return float(trace / by_correlation.sum())


def _sides(values: Floats) -> Floats:
    """What stands at each lag, counted for both directions."""
    return np.concatenate([values[:1], 2 * values[1:]])


def _row_sums(values: Floats) -> Floats:
    """The sums of the rows of the symmetric matrix that has values[|i - j|] at (i, j)."""
    sums: Floats = np.cumsum(values)
    return sums + sums[::-1] - values[0]
