"""Inquiries: what a model is asked about the series of a request, and how far ahead."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipelines.panel import Panel
from serving.baselines import BASELINES
from serving.models import Model, inputs_of
from serving.problems import Item, Problem
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.series import Options, Series
from serving.schemas.tables import Cells


@dataclass(frozen=True, slots=True)
class Inquiry:
    """The usable series of a request with what `asked` wants of them.

    `requested` counts the series of the request, those left out too, and `size` the bytes of its
    body, or of the numbers that are looked at or answered where these are more. `future` holds the
    covariates known ahead; `baseline` is what is asked in place of a registered model, if not what
    the request names.
    """

    asked: Series
    options: Options
    panel: Panel
    requested: int
    size: int
    future: pl.DataFrame | None = None
    baseline: str | None = None

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles that are wanted, ascending."""
        return tuple(sorted(self.asked.quantiles))

    @property
    def built_in(self) -> str:
        """The built-in baseline that is asked where no registered model is."""
        named = self.asked.model if isinstance(self.asked, ForecastRequest) else None
        return self.baseline or named or BASELINES[0]


def steps_of(model: Model | None, panel: Panel, asked: Series, limit: int) -> tuple[int, int]:
    """The horizon, and the steps of the grid after the data that it takes."""
    horizon = horizon_of(model, panel, asked, limit)
    if model is None or not (inputs_of(model).features or inputs_of(model).known):
        return horizon, horizon
    own = model.forecaster.recipe.horizon
    return horizon, -(-horizon // own) * own


def horizon_of(model: Model | None, panel: Panel, asked: Series, limit: int) -> int:
    """The horizon asked for, or the model's own; `invalid-request` beyond the limit."""
    own = panel.frequency.season if model is None else model.forecaster.recipe.horizon
    steps = asked.h or _rows_ahead(asked)
    place = "/future" if asked.h is None else "/h"
    if steps is not None and steps > limit:
        raise Problem(
            "invalid-request",
            f"h is limited to {limit} steps.",
            [Item(f"At most {limit} steps are forecast here.", place)],
        )
    return steps or own


def _rows_ahead(asked: Series) -> int | None:
    """Rows of the first series in the future table; None without one."""
    table = asked.future
    ids: Cells = table.get(asked.columns.id, ()) if asked.columns.id in asked.data else ()
    if isinstance(ids, pl.Series) and len(ids):
        return int(ids.eq_missing(ids.head(1)).sum())
    if len(ids):
        return sum(cell == ids[0] for cell in ids)
    return max(map(len, table.values()), default=0) or None
