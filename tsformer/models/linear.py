"""The linear family by gradient: one map from context to horizon, shared by all variates.

Linear, NLinear and DLinear are "Are Transformers Effective for Time Series Forecasting?",
arXiv 2205.13504 (AAAI 2023); RLinear is "Revisiting Long-term Time Series Forecasting",
arXiv 2305.10721. Where levels are asked for, each map ends in the shared quantile head.

Linear and DLinear have no anchor and NLinear leaves the spread alone, so unlike models under
instance scaling they know the unit they were trained in: feed them training deviations. A missing
value of Linear and DLinear counts as 0, the training mean in that unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d

from tsformer.batch import Batch, Shape, seen
from tsformer.dropout import Dropout
from tsformer.errors import unlike
from tsformer.heads import head
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.scale import Affine, Scaled, check_choice
from tsformer.tokens import unfold_variates


@dataclass(frozen=True, slots=True)
class LinearSpec(ModelSpec):
    """Linear: W x + b of the values as they are. Not shift-equivariant."""

    kind: ClassVar[str] = "linear"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True, unit_free=False)

    def build(self, shape: Shape) -> Model:
        return Linear(shape)


@dataclass(frozen=True, slots=True)
class NLinearSpec(ModelSpec):
    """NLinear: the last value is taken out before the map and put back after it."""

    kind: ClassVar[str] = "nlinear"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True, unit_free=False)

    def build(self, shape: Shape) -> Model:
        return Scaled(Linear(shape), center="last", scale="none")


@dataclass(frozen=True, slots=True)
class RLinearSpec(ModelSpec):
    """RLinear: a linear map between instance normalisation and its inverse.

    `dropout` is a probability, on the normalised input. The official code learns an affine pair
    per variate; `affine="scalar"` has one pair for all, and the default none, since a linear map
    can absorb it.
    """

    kind: ClassVar[str] = "rlinear"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True)

    dropout: float = 0.1
    affine: Affine = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise unlike("dropout must be in [0, 1)", self.dropout)
        check_choice(self.affine, ("none", "scalar"), name="affine")

    def build(self, shape: Shape) -> Model:
        return Scaled(Linear(shape, dropout=self.dropout), affine=self.affine)


@dataclass(frozen=True, slots=True)
class DLinearSpec(ModelSpec):
    """DLinear: one map for the moving average over `kernel` steps, one for the rest."""

    kind: ClassVar[str] = "dlinear"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True, unit_free=False)

    kernel: int = 25

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise unlike("kernel must be odd and at least 1 step", self.kernel)

    def build(self, shape: Shape) -> Model:
        return DLinear(shape, kernel=self.kernel)


class Linear(Model):
    """W x + b, the same W and b for every variate."""

    def __init__(self, shape: Shape, *, dropout: float = 0.0) -> None:
        super().__init__(shape)
        self.dropout = Dropout(dropout)
        self.head = head(shape.context, shape=shape, dropout=0.0)

    def forward(self, batch: Batch) -> Tensor:
        forecast = self.head(self.dropout(_rows(batch, self.head)))  # [row, horizon, level]
        return _unfold(forecast, batch)

    def lag_weights(self) -> Tensor:
        """What each step of the context adds to the point forecast: `[horizon, time]`."""
        return self.head.weight.detach()


class DLinear(Model):
    """W_t t + b_t + W_s (x - t) + b_s, t the moving average of x."""

    def __init__(self, shape: Shape, *, kernel: int) -> None:
        super().__init__(shape)
        self.kernel = kernel
        self.trend = head(shape.context, shape=shape, dropout=0.0)
        self.season = head(shape.context, shape=shape, dropout=0.0)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"

    def forward(self, batch: Batch) -> Tensor:
        values = _rows(batch, self.trend)
        trend = moving_average(values, kernel=self.kernel)  # [row, time]
        # The sum of two ascending sequences ascends, so quantiles of both heads cannot cross.
        return _unfold(self.trend(trend) + self.season(values - trend), batch)

    def lag_weights(self) -> Tensor:
        """What each step of the context adds to the point forecast: `[horizon, time]`.

        With A the moving average as a matrix, W_t A + W_s (1 - A).
        """
        trend, season = self.trend.weight.detach(), self.season.weight.detach()
        steps = torch.eye(self.shape.context, dtype=trend.dtype, device=trend.device)
        average = moving_average(steps, kernel=self.kernel)  # [step, where it is felt]
        return season + (trend - season) @ average.T


def moving_average(values: Tensor, *, kernel: int) -> Tensor:
    """The centred mean of `kernel` steps of `values` `[row, time]`, ends repeated beyond them."""
    reach = kernel // 2
    first, last = values[:, :1].expand(-1, reach), values[:, -1:].expand(-1, reach)
    padded = torch.cat((first, values, last), -1)
    return avg_pool1d(padded[:, None], kernel, stride=1)[:, 0]


def _rows(batch: Batch, head: nn.Module) -> Tensor:
    """Each variate of each window as a row `[batch * variate, time]`, in the dtype of `head`."""
    dtype = next(head.parameters()).dtype
    return seen(batch.past, batch.observed).to(dtype).mT.flatten(0, 1)


def _unfold(forecast: Tensor, batch: Batch) -> Tensor:
    unfolded = unfold_variates(forecast, variates=batch.past.shape[2])
    return unfolded.to(batch.past.dtype)  # [batch, horizon, variate, level]
