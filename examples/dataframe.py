"""From a data frame to a forecast without a service, a registry or a file.

python examples/dataframe.py
"""

import numpy as np
import pandas as pd
import torch

from pipelines.forecaster import Forecaster
from pipelines.panel import read_panel
from pipelines.recipe import Recipe
from pipelines.schema import Schema
from pipelines.windows import Borders, Grid, PanelWindows
from tsformer.batch import Shape
from tsformer.models import build
from tsformer.models.patchtst import PatchTSTSpec
from tsformer.train import Training, fit

CONTEXT, HORIZON, LEVELS = 96, 24, (0.1, 0.5, 0.9)


def table() -> pd.DataFrame:
    """Four weeks of an hourly series with a daily wave."""
    hours = pd.date_range("2026-01-01", periods=24 * 28, freq="h")
    wave = 50 + 10 * np.sin(2 * np.pi * hours.hour / 24)
    noise = np.random.default_rng(0).normal(scale=1.5, size=len(hours))
    return pd.DataFrame({"sensor": "a", "at": hours, "load": wave + noise})


def main() -> pd.DataFrame:
    """The next day of the series, with an 80 % interval."""
    panel, _ = read_panel(table(), schema=Schema(id="sensor", time="at", targets=("load",)))
    grid = Grid.of([panel.target[:, None]])
    borders = Borders.by_fractions((0.7, 0.1, 0.2), grid.lengths)
    scaled = grid.standardised(grid.fit_scaler(borders.train))
    shape = Shape(context=CONTEXT, horizon=HORIZON, levels=LEVELS)
    train, validation = (
        PanelWindows(scaled, cutoffs=borders.cutoffs(part, scaled, shape), shape=shape)
        for part in ("train", "validation")
    )
    torch.manual_seed(0)
    spec = PatchTSTSpec(dropout=0.1)
    model = build(spec, shape)
    fit(model, train=train, validation=validation, training=Training(epochs=5, loss="pinball"))
    recipe = Recipe(frequency="h", season=24, context=CONTEXT, min_context=48, horizon=HORIZON)
    forecast = Forecaster(model, spec=spec, recipe=recipe).predict(panel, levels=LEVELS)
    return forecast.table.to_pandas()


if __name__ == "__main__":
    print(main())
