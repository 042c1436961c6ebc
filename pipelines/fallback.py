"""What answers in the place of a model that cannot, always said: the last season, or a linear fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.panel import Panel
from pipelines.query import Floats, Query
from pipelines.versions import FALLBACK
from tsformer.batch import Shape
from tsformer.models.autoregression import AutoregressionSpec
from tsformer.models.naive import SeasonalNaive

LOOKS_BACK = 4_096  # steps: one endless series must not size the array of ten thousand short ones
LINEAR_CONTEXT = 1_024  # steps that a linear baseline is fitted on


def replacement(
    name: str, panel: Panel, positions: Sequence[int], *, season: int, horizon: int,
    levels: Sequence[float],
) -> Floats:  # fmt: skip
    """What the fallback `name` says of some series, `[series, horizon, 1 + level]`.

    NaN where a series has no value at all.
    """
    made = seasonal_naive if name == FALLBACK else linear
    return made(panel, positions, season=season, horizon=horizon, levels=levels)


def linear(
    panel: Panel, positions: Sequence[int], *, season: int, horizon: int, levels: Sequence[float]
) -> Floats:
    """An autoregression of each series by itself, `[series, horizon, 1 + level]`."""
    ended = _ends(panel, positions)
    starts = panel.offsets[:-1][list(positions)]
    ends = panel.offsets[1:][list(positions)]
    context = int(np.minimum(ends - starts, LINEAR_CONTEXT).max(initial=1))
    past = np.full((len(positions), context), np.nan)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        tail = panel.target[max(start, end - context) : end]
        past[row, context - len(tail) :] = tail
    all_levels = tuple(sorted({*levels, 0.5})) if levels else ()
    shape = Shape(context=context, horizon=horizon, levels=all_levels)
    model = AutoregressionSpec(season=season).build(shape).eval()
    with torch.inference_mode():
        output = model(Query(past[..., None]).batch())[:, :, 0]  # [series, horizon, level]
    columns = [shape.point, *(all_levels.index(level) for level in levels)]
    numbers: Floats = output[..., columns].numpy()
    numbers[(ended == starts) | np.isnan(past).all(axis=1)] = np.nan
    return numbers


def seasonal_naive(
    panel: Panel, positions: Sequence[int], *, season: int, horizon: int, levels: Sequence[float]
) -> Floats:
    """The last season repeated, `[series, horizon, 1 + level]`, from `LOOKS_BACK` steps at most.

    They end at the last observed value, and a series without any is NaN. Points and quantiles are
    those that the model `seasonal_naive` gives for the missing steps and then the horizon.
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
        output = model.at(Query(past[..., None]).batch(), steps)[:, :, 0]  # [series, step, level]
    columns = [shape.point, *(all_levels.index(level) for level in levels)]
    numbers: Floats = output[..., columns].numpy()
    numbers[ended == starts] = np.nan
    return numbers


def rows_read(name: str, panel: Panel, positions: Sequence[int]) -> list[int]:
    """How many of the last rows of each series the fallback `name` reads, those missing too."""
    starts, ends = panel.offsets[:-1][list(positions)], panel.offsets[1:][list(positions)]
    naive = ends - np.maximum(starts, _ends(panel, positions) - LOOKS_BACK)
    read = naive if name == FALLBACK else np.minimum(ends - starts, LINEAR_CONTEXT)
    rows: list[int] = read.tolist()
    return rows


def _ends(panel: Panel, positions: Sequence[int]) -> NDArray[np.int64]:
    """The place after the last observed value of each series; its first row if there is none."""
    ends = []
    for position in positions:
        start, end = panel.offsets[position], panel.offsets[position + 1]
        seen = np.flatnonzero(~np.isnan(panel.target[start:end]))
        ends.append(start + seen[-1] + 1 if len(seen) else start)
    return np.array(ends, dtype=np.int64)
