"""Reversible instance normalisation, as a wrapper around any model.

RevIN, Kim et al., ICLR 2022, as PatchTST uses it (arXiv 2211.14730, section 3.1): every window
of every variate is normalised by its own statistics, which are detached, and the forecast is put
back. Deviations:

- The paper adds 1e-5 under the root. Here nothing is added, so f(ax + b) = a f(x) + b holds for
  any unit, and a flat window, whose deviation is only rounding, forecasts its level exactly.
- Statistics are those of the observed steps alone.
- Statistics are values, never module state: interleaved calls cannot disturb each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from tsformer.batch import Batch, all_observed, seen
from tsformer.errors import unlike
from tsformer.model import Model

Center = Literal["mean", "last"]
Scale = Literal["std", "none"]
Affine = Literal["none", "scalar"]

# Rounding leaves up to a few units in the last place of the largest value in a deviation that is
# truly zero; a real deviation that small carries no digits.
FLAT_ULPS = 8


def location_scale(
    values: Tensor, observed: Tensor, *, center: Center = "mean"
) -> tuple[Tensor, Tensor]:
    """Level and spread of every window: two tensors `[batch, 1, variate]` in the unit of `values`.

    `values` `[batch, time, variate]`, `observed` the same in bool. The level is the mean or the
    last of the observed steps, the spread their standard deviation (biased) around the mean. A
    flat window has spread exactly 0; a window without any observed step has level and spread 0.
    """
    whole = all_observed(observed)
    known = values if whole else torch.where(observed, values, 0)
    # In units of the largest value squares neither overflow nor vanish, and a constant is 1.
    unit = known.abs().amax(1, keepdim=True)  # [batch, 1, variate]
    unit = torch.where(unit > 0, unit, 1)
    known = known / unit
    count = values.shape[1] if whole else observed.sum(1, keepdim=True).clamp(min=1)
    mean = known.sum(1, keepdim=True) / count
    deviation = known - mean if whole else torch.where(observed, known - mean, 0)
    variance = deviation.square().sum(1, keepdim=True) / count
    rounding = FLAT_ULPS * torch.finfo(values.dtype).eps
    spread = torch.where(variance > rounding**2, variance.sqrt(), 0)
    location = mean * unit if center == "mean" else _last(values, observed)
    return location, spread * unit


def _last(values: Tensor, observed: Tensor) -> Tensor:
    """The last observed step, `[batch, 1, variate]`; 0 where there is none."""
    if all_observed(observed[:, -1:]):
        return values[:, -1:]
    # Ranks rise with time, so the largest rank among the observed is the last of them.
    rank = torch.arange(1, values.shape[1] + 1, device=values.device)[:, None]  # [time, 1]
    last = (observed * rank).argmax(1, keepdim=True)
    return torch.where(observed.gather(1, last), values.gather(1, last), 0)


@dataclass(frozen=True, slots=True)
class Scaling:
    """The statistics of a batch of windows, `[batch, 1, variate]` each; it knows its inverse."""

    location: Tensor
    scale: Tensor

    def apply(self, values: Tensor, observed: Tensor) -> Tensor:
        """Normalised `values` `[batch, time, variate]`; 0 where flat or not observed."""
        flat = self.scale == 0
        normal = (values - self.location).div_(torch.where(flat, 1, self.scale))
        return seen(normal, ~flat if all_observed(observed) else observed & ~flat)

    def apply_lagged(self, lagged: Tensor) -> Tensor:
        """Normalised `lagged` `[batch, time + horizon, variate, lag]`; 0 where there is none."""
        normal = [self.apply(lag, ~lag.isnan()) for lag in lagged.unbind(-1)]
        return torch.stack(normal, -1)

    def undo(self, forecast: Tensor) -> Tensor:
        """A normalised forecast `[batch, horizon, variate, level]` in the unit of the data."""
        restored = forecast.to(self.scale.dtype) * self.scale[..., None]
        return restored + self.location[..., None]


class Shifting(Scaling):
    """A scaling by 1, for which nothing is divided or multiplied."""

    __slots__ = ()

    def apply(self, values: Tensor, observed: Tensor) -> Tensor:
        return seen(values - self.location, observed)

    def undo(self, forecast: Tensor) -> Tensor:
        return forecast.to(self.scale.dtype) + self.location[..., None]


def scaling(values: Tensor, observed: Tensor, *, center: Center, scale: Scale) -> Scaling:
    """What `location_scale` finds; with scale "none" only the level is taken out."""
    if scale == "std":
        return Scaling(*location_scale(values, observed, center=center))
    if center == "last":  # no need of a spread
        location = _last(values, observed)
    else:
        location, _ = location_scale(values, observed, center=center)
    return Shifting(location, torch.ones_like(location))


class Scaled(Model):
    """`inner` on normalised windows, its forecast put back in the unit of the data.

    Statistics and output have the dtype of `batch.past`, so float64 windows keep their digits
    however far they lie from zero, while `inner` computes in the dtype of its parameters.
    With affine "scalar" one weight and one bias, shared by all variates so that unseen ones can
    be forecast too, follow the normalisation (the paper has one pair per variate).
    """

    def __init__(
        self,
        inner: Model,
        *,
        center: Center = "mean",
        scale: Scale = "std",
        affine: Affine = "none",
    ) -> None:
        super().__init__(inner.shape)
        check_choice(center, ("mean", "last"), name="center")
        check_choice(scale, ("std", "none"), name="scale")
        check_choice(affine, ("none", "scalar"), name="affine")
        self.center: Center = center
        self.scale: Scale = scale
        self.inner = inner
        self.affine = ScalarAffine() if affine == "scalar" else None

    def extra_repr(self) -> str:
        return f"center={self.center}, scale={self.scale}"

    def forward(self, batch: Batch) -> Tensor:
        normal, unit = self.normalised(batch)
        forecast = self.inner(normal)  # [batch, horizon, variate, level]
        if self.affine is not None:
            forecast = self.affine.undo(forecast)
        return unit.undo(forecast)

    def normalised(self, batch: Batch) -> tuple[Batch, Scaling]:
        """What `inner` is given for `batch`, and what puts its forecast back."""
        unit = scaling(batch.past, batch.observed, center=self.center, scale=self.scale)
        past = unit.apply(batch.past, batch.observed).to(_computing_dtype(self.inner, batch.past))
        if self.affine is not None:
            past = self.affine(past)
        lagged = batch.lagged
        if lagged is not None:
            lagged = unit.apply_lagged(lagged).to(past.dtype)
        return replace(batch, past=past, lagged=lagged), unit


def through_center(weights: Tensor, *, context: int, center: Center) -> Tensor:
    """A map of deviations from the level as the map of values that it amounts to.

    `weights` `[horizon, input]` act on x - l, and l, the mean or the last of the first `context`
    inputs, is put back: y = l + W (x - l). So the shares of l that W leaves over go to the steps
    that l is made of, and every row sums to 1.
    """
    rest = 1 - weights.sum(-1, keepdim=True)
    level = weights.new_zeros(weights.shape[-1])
    if center == "mean":
        level[:context] = 1 / context
    else:
        level[context - 1] = 1
    return weights + rest * level


class ScalarAffine(nn.Module):
    """One learnt weight and bias after the normalisation (RevIN, equations 2 and 4).

    The weight is the exponential of what is learnt, 1 at the start. The paper leaves its sign
    free and the official code guards its inverse by 1e-10; below 0 it would turn the order of the
    quantiles around, and near 0 the inverse has no bound.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, normal: Tensor) -> Tensor:
        return normal * self.log_weight.exp() + self.bias

    def undo(self, forecast: Tensor) -> Tensor:
        return (forecast - self.bias) * (-self.log_weight).exp()


def check_choice(value: str, choices: tuple[str, ...], *, name: str) -> None:
    """Refuses a `value` that is none of `choices`."""
    if value not in choices:
        raise unlike(f"{name} must be one of {', '.join(choices)}", repr(value))


def _computing_dtype(inner: Model, past: Tensor) -> torch.dtype:
    parameter = next(inner.parameters(), None)
    return past.dtype if parameter is None else parameter.dtype
