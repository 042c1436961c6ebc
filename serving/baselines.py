"""The baselines that are always there: built for the series of a request, not loaded.

`linear` is the autoregression that every series is fitted by itself, on the request's own rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.fallback import LINEAR_CONTEXT
from pipelines.forecaster import Forecaster, Recipe
from pipelines.panel import Panel
from tsformer.batch import Shape
from tsformer.model import ModelSpec
from tsformer.models.autoregression import AutoregressionSpec
from tsformer.models.naive import LastValueSpec, SeasonalNaiveSpec

BASELINES = ("seasonal_naive", "linear")  # that a comparison adds
BUILT_IN = {  # reserved names, and what they are
    "seasonal_naive": "Every step repeats the last value of its phase of the season.",
    "linear": (
        "An autoregression by ridge, fitted to each series by itself on the last 1,024 rows of the "
        "request: the nearest lags and those around one and two seasons, penalty 4, step by step."
    ),
    "last_value": "Every step repeats the last value.",
}
LONGEST_CONTEXT = 4_096  # steps from which quantiles of seasonal naive are estimated


def built_in(name: str, panel: Panel, *, horizon: int, levels: Sequence[float]) -> Forecaster:
    """The baseline `name` for the grid of `panel`, with its own quantiles."""
    season = panel.frequency.season
    longest = int(np.diff(panel.offsets).max(initial=1))
    most = LINEAR_CONTEXT if name == "linear" else LONGEST_CONTEXT
    context = max(season, min(longest, most))
    spec = _spec(name, season)
    own = tuple(sorted({*levels, 0.5})) if levels else ()
    recipe = Recipe(
        frequency=str(panel.frequency),
        season=season,
        context=context,
        min_context=1,
        horizon=horizon,
    )
    shape = Shape(context=context, horizon=horizon, levels=own)
    return Forecaster(spec.build(shape), spec=spec, recipe=recipe, device="cpu")


def _spec(name: str, season: int) -> ModelSpec:
    specs: dict[str, ModelSpec] = {
        "seasonal_naive": SeasonalNaiveSpec(season=season),
        "linear": AutoregressionSpec(season=season),
        "last_value": LastValueSpec(),
    }
    return specs[name]
