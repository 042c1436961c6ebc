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
LOOKS_BACK = 4_096  # steps: one endless series must not size the array of ten thousand short ones


def seasonal_naive(
    panel: Panel, positions: Sequence[int], *, season: int, horizon: int, levels: Sequence[float]
) -> Floats:
    """The last season repeated, `[series, horizon, 1 + level]`, from `LOOKS_BACK` steps at most.

    Quantiles by the closed form of Hyndman & Athanasopoulos (FPP3, 5.5).
    """
    asked = panel.take(positions)
    context = min(int(np.diff(asked.offsets).max()), LOOKS_BACK)
    past = Query.pasts(asked, context)
    all_levels = tuple(sorted({*levels, 0.5})) if levels else ()
    shape = Shape(context=context, horizon=horizon, levels=all_levels)
    model = SeasonalNaiveSpec(season=season).build(shape).eval()
    with torch.inference_mode():
        output = model(Query(past, None).batch())[:, :, 0]  # [series, horizon, level]
    columns = [shape.point, *(all_levels.index(level) for level in levels)]
    numbers: Floats = output[..., columns].numpy()
    return numbers
