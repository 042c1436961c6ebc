"""The baselines that are always there: built for the series of a request, not loaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.forecaster import Forecaster, Recipe
from pipelines.panel import Panel
from tsformer.batch import Shape
from tsformer.models.naive import SeasonalNaiveSpec

BUILT_IN = ("seasonal_naive",)  # reserved names
LONGEST_CONTEXT = 4_096  # steps from which quantiles of seasonal naive are estimated


def built_in(panel: Panel, *, horizon: int, levels: Sequence[float]) -> Forecaster:
    """Seasonal naive for the grid of `panel`, with its own quantiles."""
    season = panel.frequency.season
    longest = int(np.diff(panel.offsets).max(initial=1))
    context = max(season, min(longest, LONGEST_CONTEXT))
    spec = SeasonalNaiveSpec(season=season)
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
