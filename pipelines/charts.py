"""The charts of a forecaster: its newest forecasts of the test part beside what came.

What they hold is drawn by `pipelines.figures`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.figures import FanChart
from pipelines.forecaster import Forecaster
from pipelines.material import Material
from pipelines.windows import Floats, PanelWindows, Rows

SERIES_SHOWN = 4
BAND = (0.1, 0.9)  # the levels between which a fan is filled
HORIZONS_BACK = 3  # history in a figure, in horizons: with more of it the fan is a sliver


def fan_charts(material: Material, forecaster: Forecaster) -> list[FanChart]:
    """The newest test window of a handful of series: recent past, actual, point and band.

    There is no band where the forecaster's quantiles do not reach as far.
    """
    served, context = forecaster.levels, forecaster.recipe.context
    reached = bool(served) and served[0] <= BAND[0] and BAND[1] <= served[-1]
    material = material.read_by(forecaster)
    windows = material.scoring_windows("test", stride=1, context=context)
    index = _newest(windows)
    batch, target = windows.batch(torch.from_numpy(index))
    unit = forecaster.unit(material.ids(windows, index), batch)
    fans = forecaster.forecast(batch, BAND if reached else (), unit=unit).numpy()
    shown = min(context, HORIZONS_BACK * windows.shape.horizon)
    past = _seen(batch.past, batch.observed)[:, -shown:]
    actual = _seen(target.values, target.observed)
    places = list(np.ndindex(len(index), windows.shape.variates))[:SERIES_SHOWN]
    return [
        _chart(
            material, windows, int(index[place]), variate,
            past=past[place, :, variate], actual=actual[place, :, variate],
            fan=fans[place, :, variate],
        )
        for place, variate in places
    ]  # fmt: skip


def _newest(windows: PanelWindows) -> Rows:
    """The last window of each of the first few groups."""
    groups = windows.groups()
    from_end = np.unique(groups[::-1], return_index=True)[1]
    newest: Rows = len(groups) - 1 - from_end[:SERIES_SHOWN]
    return newest


def _seen(values: Tensor, observed: Tensor) -> Floats:
    """`values` in float64, NaN where nothing was observed."""
    seen: Floats = values.double().masked_fill(~observed, torch.nan).numpy()
    return seen


def _chart(
    material: Material,
    windows: PanelWindows,
    window: int,
    variate: int,
    *,
    past: Floats,
    actual: Floats,
    fan: Floats,
) -> FanChart:
    """One variate of one window; `fan` `[horizon, 1 + level]` is the point and the band, if any."""
    group = int(windows.groups()[window])
    series = group * windows.shape.variates + variate
    cutoff = int(windows.cutoffs[window]) - int(windows.grid.offsets[group])
    row = int(material.panel.offsets[series]) + cutoff  # the first target row in the table
    times = material.panel.table["time"]
    return FanChart(
        title=str(material.panel.ids[series]),
        times=_wall(times[row - len(past) : row]),
        history=past,
        future_times=_wall(times[row : row + len(fan)]),
        actual=actual,
        point=fan[:, 0],
        bands={BAND: (fan[:, 1], fan[:, 2])} if fan.shape[1] > 1 else {},
    )


def _wall(times: pl.Series) -> NDArray[Any]:
    """Stamps as a figure shows them: local time, or step numbers."""
    return (
        times.dt.replace_time_zone(None).to_numpy()
        if times.dtype.is_temporal()
        else times.to_numpy()
    )
