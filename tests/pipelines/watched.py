"""A model under watch, for tests: a champion that knows its data and what its series were like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.forecaster import Forecaster
from pipelines.profile import Profile
from pipelines.published import data_card
from pipelines.recipe import Recipe
from pipelines.registry import Registry
from pipelines.sections import Data
from tests.panels import panel_of
from tests.pipelines.homes import new_home
from tests.pipelines.registries import new_run
from tsformer.batch import Shape
from tsformer.models.naive import SeasonalNaiveSpec


def watched(folder: Path, table: dict[str, NDArray[np.float64]]) -> Registry:
    """The champion `load/1` of hourly series: seasonal naive, its MASE in the backtest 1."""
    spec = SeasonalNaiveSpec(season=24)
    model = spec.build(Shape(context=48, horizon=24, levels=(0.1, 0.5, 0.9)))
    recipe = Recipe("h", season=24, context=48, min_context=24, horizon=24)
    profile = Profile.of(panel_of(table), season=24, horizon=24, seasonal_error=np.ones(len(table)))
    forecaster = Forecaster(model, spec=spec, recipe=recipe, profile=profile, device="cpu")
    data = Data(name="load", id="unique_id", time="ds", targets=("y",))
    registry = Registry(new_home(folder / "home"))
    version = registry.publish(
        "load",
        folder / "sealed",
        digest=forecaster.save(folder / "sealed"),
        run_id=new_run(registry.home),
        card={**forecaster.card, "metrics": {"mase": 1.0}, "data": data_card(data)},
    )
    registry.promote(str(version))
    return registry
