"""What answers in the place of a model that cannot: the last season repeated, and always said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipelines.panel import Panel
from pipelines.query import Floats, Query
from tsformer.batch import Shape
from tsformer.models.naive import SeasonalNaiveSpec

FALLBACK = "seasonal_naive"


def seasonal_naive(
    panel: Panel, positions: Sequence[int], *, season: int, horizon: int, levels: Sequence[float]
) -> Floats:
    """The last season repeated, `[series, horizon, 1 + level]`, from all history of each series.

    Quantiles by the closed form of Hyndman & Athanasopoulos (FPP3, 5.5).
    """
    context = int(np.diff(panel.offsets)[list(positions)].max())
    past = Query.pasts(panel, context)[list(positions)]
    all_levels = tuple(sorted({*levels, 0.5})) if levels else ()
    shape = Shape(context=context, horizon=horizon, levels=all_levels)
    model = SeasonalNaiveSpec(season=season).build(shape).eval()
    with torch.inference_mode():
        output = model(Query(past, None).batch())[:, :, 0]  # [series, horizon, level]
    columns = [shape.point, *(all_levels.index(level) for level in levels)]
    numbers: Floats = output[..., columns].numpy()
    return numbers
