"""The code of every published MLflow model: a long table in, a long table of forecasts out.

    model = mlflow.pyfunc.load_model("models:/flights@champion")
    model.predict(table, params={"h": 24, "quantiles": [0.1, 0.9]})

MLflow copies this file into the model and runs it when the model is loaded, so it imports by
full names alone, and the `tsformer` distribution has to be installed there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas as pd
import polars as pl

from pipelines.forecaster import Forecaster
from pipelines.panel import read_panel
from pipelines.schema import Schema
from pipelines.tables import Table
from tsformer.errors import DataError

TRAILING_NULL = "trailing_null"


class ForecastModel(mlflow.pyfunc.PythonModel):
    """A forecaster behind MLflow's interface; the numbers are those of the service."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        """Verifies and loads the sealed files that lie beside this code."""
        self.forecaster = Forecaster.load(Path(context.artifacts["forecaster"]))

    def predict(
        self,
        context: mlflow.pyfunc.PythonModelContext,  # noqa: ARG002  (MLflow passes it)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Forecasts of `model_input` (`unique_id`, `ds`, `y`, covariates), in the same layout.

        `params`: `h` steps, `quantiles` levels, `freq`, `tz` (IANA), `fill` (`mask`: missing rows
        count as missing values); with `future` as `trailing_null` the last `h` rows of each series
        are its future covariates.
        """
        asked = params or {}
        recipe = self.forecaster.recipe
        horizon = int(asked.get("h") or recipe.horizon)
        history: Table = model_input
        future = None
        if asked.get("future") == TRAILING_NULL:
            history, future = split(pl.from_pandas(model_input), horizon)
        schema = Schema(
            id="unique_id" if "unique_id" in model_input.columns else None,
            time="ds",
            targets=("y",),
            **recipe.inputs.names,
        )
        panel, _ = read_panel(
            history,
            schema=schema,
            freq=asked.get("freq") or None,
            tz=asked.get("tz") or None,
            fill=asked.get("fill") or "none",
        )
        levels = tuple(float(level) for level in asked.get("quantiles", ()))
        forecast = self.forecaster.predict(panel, horizon=horizon, levels=levels, future=future)
        return forecast.table.to_pandas()


def split(table: pl.DataFrame, horizon: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The history and the future of each series: its last `horizon` rows, all without `y`."""
    rank = pl.col("ds").rank("ordinal", descending=True)
    ahead = (rank.over("unique_id") if "unique_id" in table.columns else rank) <= horizon
    history, future = table.filter(~ahead), table.filter(ahead)
    given = future["y"].drop_nulls().cast(pl.Float64).drop_nans()
    if len(given):
        raise DataError(
            f"{len(given)} of the last {horizon} rows of the series have a value of y. With "
            f"future='{TRAILING_NULL}' they are the future: append {horizon} rows with y null."
        )
    return history, future.drop("y")


mlflow.models.set_model(ForecastModel())
