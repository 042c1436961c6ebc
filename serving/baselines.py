"""The baselines that are always there: built for the series of a request, not loaded.

`linear`, `ets`, `theta` and `sarimax` are fitted to every series by itself, on the request's own
rows; the last three in processes (`serving.fits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.fallback import LINEAR_CONTEXT
from pipelines.forecaster import Forecaster
from pipelines.panel import Panel
from pipelines.recipe import Recipe
from serving.limits import Limits
from serving.problems import Item, Problem, too_large
from tsformer.batch import Shape
from tsformer.model import ModelSpec
from tsformer.models.autoregression import AutoregressionSpec
from tsformer.models.classical import ETSSpec, SARIMAXSpec, ThetaSpec
from tsformer.models.naive import LastValueSpec, SeasonalNaiveSpec
from tsformer.series_fit import shortest

BASELINES = ("seasonal_naive", "linear")  # that a comparison adds
BUILT_IN = {  # reserved names, and what they are
    "seasonal_naive": "Every step repeats the last value of its phase of the season.",
    "linear": (
        "An autoregression by ridge, fitted to each series by itself on the last 1,024 rows of the "
        "request: the nearest lags and those around one and two seasons, penalty 4, step by step."
    ),
    "last_value": "Every step repeats the last value.",
    "ets": (
        "Exponential smoothing with additive errors, damped trend and season, fitted to each series "
        "by itself on its last 1,024 rows, or two seasons where those are more."
    ),
    "theta": (
        "The Theta method, without the season where a test finds one, fitted to each series by "
        "itself on its last 1,024 rows, or two seasons where those are more."
    ),
    "sarimax": (
        "ARIMA(1,0,0)(0,1,1) with the season, or (0,1,1) without one, fitted to each series by "
        "itself on its last 512 rows. Seasons of up to 52 steps."
    ),
}
LONGEST_CONTEXT = 4_096  # steps from which quantiles of seasonal naive are estimated
FIT_SECONDS = 10.0  # of a processor, for one series


@dataclass(frozen=True, slots=True)
class Reach:
    """What a fit reads at most: so it stays within seconds and some 0.6 GiB."""

    rows: int
    season: int


FITTED = {"ets": Reach(1_024, 1_440), "theta": Reach(1_024, 1_440), "sarimax": Reach(512, 52)}


def built_in(name: str, panel: Panel, *, horizon: int, levels: Sequence[float]) -> Forecaster:
    """The baseline `name` for the grid of `panel`, with its own quantiles."""
    season = panel.frequency.season
    spec, least = _spec(name, season), _least(name, season)
    longest = int(np.diff(panel.offsets).max(initial=1))
    context = max(season, least, min(longest, _rows(name)))
    own = tuple(sorted({*levels, 0.5})) if levels else ()
    recipe = Recipe(
        frequency=str(panel.frequency),
        season=season,
        context=context,
        min_context=least,
        horizon=horizon,
    )
    shape = Shape(context=context, horizon=horizon, levels=own)
    return Forecaster(spec.build(shape), spec=spec, recipe=recipe, device="cpu")


def check_fits(name: str, limits: Limits, *, fits: int) -> None:
    """Raises `too-large` where `name` is fitted to each of more series than a request may have."""
    if name not in FITTED:
        return
    limit = "sarimax_per_request" if name == "sarimax" else "fits_per_request"
    maximum: int = getattr(limits, limit)
    if fits > maximum:
        raise too_large(limit, maximum=maximum, actual=fits)


def rows_read(name: str, season: int) -> int:
    """How many rows at the end of a series `name` reads at most."""
    return max(season, _least(name, season), _rows(name))


def _least(name: str, season: int) -> int:
    """The rows that a fit takes; `model-incompatible` where there is none for such a season."""
    if name not in FITTED:
        return 1
    _check_season(name, season)
    return shortest(name, _spec(name, season).to_mapping())


def _rows(name: str) -> int:
    if name in FITTED:
        return FITTED[name].rows
    return LINEAR_CONTEXT if name == "linear" else LONGEST_CONTEXT


def _check_season(name: str, season: int) -> None:
    most = FITTED[name].season
    if season > most:
        message = (
            f"{name} is fitted to seasons of up to {most:,} steps; at this frequency one has "
            f"{season:,}. Resample, or use linear or seasonal_naive."
        )
        raise Problem("model-incompatible", message, [Item(message)])


def _spec(name: str, season: int) -> ModelSpec:
    order = (1, 0, 0) if season > 1 else (0, 1, 1)
    specs: dict[str, ModelSpec] = {
        "seasonal_naive": SeasonalNaiveSpec(season=season),
        "linear": AutoregressionSpec(season=season),
        "last_value": LastValueSpec(),
        "ets": ETSSpec(season=season, seconds=FIT_SECONDS),
        "theta": ThetaSpec(season=season, seconds=FIT_SECONDS),
        "sarimax": SARIMAXSpec(season=season, order=order, seconds=FIT_SECONDS),
    }
    return specs[name]
