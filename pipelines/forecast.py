"""A forecast: numbers on a time grid, and how each series came by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from pipelines.panel import Panel
from pipelines.query import Floats
from tsformer.errors import Fault

Status = Literal["ok", "insufficient_history", "invalid", "model_failed"]
Method = Literal["direct", "prefix", "rollout", "fallback", "none"]


@dataclass(frozen=True, slots=True)
class SeriesForecast:
    """How one series was answered; the members of `series` in the HTTP contract."""

    unique_id: str | int
    status: Status
    rows: int
    method: Method
    rows_used: int = 0
    padded: int = 0
    context_end: object = None
    fallback: Mapping[str, str] | None = None
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecasts on a time grid: `table` has `unique_id`, `ds`, `mean` and a column a level.

    Series keep the order of the panel; every number is finite and levels never cross.
    """

    table: pl.DataFrame
    series: tuple[SeriesForecast, ...]
    warnings: tuple[Fault, ...] = ()


def level_name(level: float) -> str:
    """The column of a quantile: `q` and the shortest decimal form of the level."""
    return f"q{level:g}"


def forecast_table(
    panel: Panel, numbers: Floats, levels: Sequence[float], series: Sequence[SeriesForecast]
) -> pl.DataFrame:
    answered = [i for i, entry in enumerate(series) if entry.rows]
    horizon = numbers.shape[1]
    names = ["mean", *(level_name(level) for level in sorted(levels))]
    order = [0, *(1 + i for i in np.argsort(levels))] if len(levels) else [0]
    flat = numbers[answered][..., order].reshape(-1, len(names))
    flat[:, 1:] = np.maximum.accumulate(flat[:, 1:], axis=1)  # rounding may cross what is equal
    places = np.repeat(np.arange(len(answered)), horizon)
    ids = pl.Series("unique_id", [panel.ids[i] for i in answered])[places]
    whole = len(answered) == len(panel.ids)
    ds = (panel if whole else panel.take(answered)).following(horizon).alias("ds")
    values = [pl.Series(name, flat[:, i]) for i, name in enumerate(names)]
    return pl.DataFrame([ids, ds, *values])
