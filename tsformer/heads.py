"""From features to forecasts: a point, or quantiles that cannot cross."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tsformer.batch import Shape
from tsformer.dropout import Dropout


class PointHead(nn.Module):
    """One linear map, shared by all rows: `[row, feature]` to `[row, horizon, 1]`."""

    def __init__(self, features: int, *, horizon: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(features, horizon)
        self.dropout = Dropout(dropout)

    @property
    def weight(self) -> Tensor:
        """Of the point forecast, `[horizon, feature]`."""
        return self.linear.weight

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.linear(features))[..., None]  # [row, horizon, level]


class QuantileHead(nn.Module):
    """One linear map to the median and the steps away from it: `[row, horizon, level]`.

    `levels` is how many, `median` the index of the level 0.5. Steps pass a softplus and add up
    outwards, so at no weights does a higher level lie below a lower one.
    """

    def __init__(
        self, features: int, *, horizon: int, levels: int, median: int, dropout: float
    ) -> None:
        super().__init__()
        self.levels = levels
        self.median = median
        self.linear = nn.Linear(features, horizon * levels)
        self.dropout = Dropout(dropout)

    @property
    def weight(self) -> Tensor:
        """Of the median, `[horizon, feature]`; the other levels are not linear."""
        return self.linear.weight.unflatten(0, (-1, self.levels))[:, self.median]

    def forward(self, features: Tensor) -> Tensor:
        raw = self.dropout(self.linear(features)).unflatten(-1, (-1, self.levels))
        return spread_from_median(raw, median=self.median)  # [row, horizon, level]


def spread_from_median(raw: Tensor, *, median: int) -> Tensor:
    """Ascending values along the last axis, from any `raw` values of the same shape."""
    center = raw[..., median : median + 1]
    up = softplus(raw[..., median + 1 :]).cumsum(-1)
    down = softplus(raw[..., :median].flip(-1)).cumsum(-1).flip(-1)
    return torch.cat((center - down, center, center + up), -1)


def head(features: int, *, shape: Shape, dropout: float) -> PointHead | QuantileHead:
    """The head that `shape` asks for: quantiles where it has levels, else one point."""
    if not shape.levels:
        return PointHead(features, horizon=shape.horizon, dropout=dropout)
    return QuantileHead(
        features,
        horizon=shape.horizon,
        levels=shape.outputs,
        median=shape.point,
        dropout=dropout,
    )
