"""What answers in the place of a model that cannot: the last season repeated, and always said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.panel import Panel
from pipelines.query import Floats, Query
from tsformer.batch import Shape
from tsformer.models.naive import SeasonalNaive

FALLBACK = "seasonal_naive"
LOOKS_BACK = 4_096  # steps: one endless series must not size the array of ten thousand short ones


def seasonal_naive(
    panel: Panel, positions: Sequence[int], *, season: int, horizon: int, levels: Sequence[float]
) -> Floats:
    """The last season repeated, `[series, horizon, 1 + level]`, from `LOOKS_BACK` steps at most.

    They end at the last observed value, and a series without any is NaN. Quantiles by the closed
    form of Hyndman & Athanasopoulos (FPP3, 5.5), as wide as the steps since that value make them.
    """
    ended = _ends(panel, positions)
    gaps = panel.offsets[1:][list(positions)] - ended  # steps that are missing at the end
    starts = np.maximum(panel.offsets[:-1][list(positions)], ended - LOOKS_BACK)
    past = np.full((len(positions), int((ended - starts).max(initial=1))), np.nan)
    for row, (start, end) in enumerate(zip(starts, ended, strict=True)):
        past[row, past.shape[1] - (end - start) :] = panel.target[start:end]
    all_levels = tuple(sorted({*levels, 0.5})) if levels else ()
    shape = Shape(context=past.shape[1], horizon=horizon, levels=all_levels)
    model = SeasonalNaive(shape, season=season).eval()
    steps = torch.from_numpy(gaps)[:, None] + torch.arange(horizon)
    with torch.inference_mode():
        output = model.at(Query(past[..., None]).batch(), steps)[
            :, :, 0
        ]  # [series, horizon, level]
    columns = [shape.point, *(all_levels.index(level) for level in levels)]
    numbers: Floats = output[..., columns].numpy()
    numbers[ended == starts] = np.nan
    return numbers


def rows_read(panel: Panel, positions: Sequence[int]) -> list[int]:
    """How many of the last rows of each series `seasonal_naive` reads, those missing too."""
    ended = _ends(panel, positions)
    starts = np.maximum(panel.offsets[:-1][list(positions)], ended - LOOKS_BACK)
    rows: list[int] = (panel.offsets[1:][list(positions)] - starts).tolist()
    return rows


def _ends(panel: Panel, positions: Sequence[int]) -> NDArray[np.int64]:
    """The place after the last observed value of each series; its first row if there is none."""
    ends = []
    for position in positions:
        start, end = panel.offsets[position], panel.offsets[position + 1]
        seen = np.flatnonzero(~np.isnan(panel.target[start:end]))
        ends.append(start + seen[-1] + 1 if len(seen) else start)
    return np.array(ends, dtype=np.int64)
