"""Random windows by which two ways to run one model are compared."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.scale import location_scale

MOST_ROWS = 64  # windows x variates that are run at once to compare


def sample(shape: Shape, *, windows: int, seed: int = 0) -> Batch:
    """Windows as requests bring them: random walks with gaps, short ones, and one without values."""
    chance = torch.Generator().manual_seed(seed)
    axes = (windows, shape.context, shape.variates)
    steps, whole = shape.context + shape.horizon, torch.arange(windows)[:, None, None]
    past = torch.randn(axes, generator=chance, dtype=torch.float64).cumsum(1)
    observed = torch.rand(axes, generator=chance) > 0.1
    observed |= whole % 2 == 0
    observed[1:2, : shape.context // 2] = False  # a short series
    observed[3:4] = False

    def columns(sizes: tuple[int, ...], *axes: int) -> Tensor | None:
        made = [
            torch.randint(size, axes, generator=chance).float()
            if size
            else torch.randn(axes, generator=chance)
            for size in sizes
        ]
        return torch.stack(made, -1) if made else None

    lagged = None
    if shape.lags:
        earlier = (windows, steps, shape.variates, len(shape.lags))
        lagged = torch.randn(earlier, generator=chance, dtype=torch.float64)
    series = None
    if shape.series:
        series = torch.randint(shape.series, (windows, shape.variates), generator=chance)
    return Batch(
        past=torch.where(observed, past, 0),
        observed=observed,
        known=columns(shape.known, windows, steps),
        covariates=columns(shape.past, windows, shape.context),
        static=columns(shape.static, windows, shape.variates),
        lagged=lagged,
        series=series,
    )


def whole(batch: Batch) -> Batch:
    """The batch without gaps, as most are; models have shorter ways for it."""
    return replace(batch, observed=torch.ones_like(batch.observed))


def few(shape: Shape, windows: int) -> int:
    """So many windows, or fewer where they hold many variates."""
    return min(windows, max(1, MOST_ROWS // shape.variates))


def distance(one: Tensor, other: Tensor, batch: Batch) -> Tensor:
    """How far two forecasts of `batch` lie apart, in deviations of each window's context.

    A window that has no deviation counts in its own unit.
    """
    _, deviation = location_scale(batch.past, batch.observed)
    unit = torch.where(deviation > 0, deviation, 1)[..., None]  # [batch, 1, variate, 1]
    return (one - other).abs() / unit
