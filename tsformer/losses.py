"""Losses over what was observed: masked averages of a pointwise error.

All take a forecast `[batch, horizon, variate, level]`, its target and the levels of the last axis
(none for a point forecast), and give a scalar. Each observed entry weighs the same; where nothing
is observed the loss is 0, with gradient 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from tsformer.batch import Target, all_observed, seen
from tsformer.errors import ConfigError

Loss = Callable[[Tensor, Target, Sequence[float]], Tensor]

# In training deviations: errors beyond one deviation count linearly.
HUBER_DELTA = 1.0


def mse(forecast: Tensor, target: Target, levels: Sequence[float]) -> Tensor:
    """Mean squared error of the point forecast (the median, where there are levels)."""
    return _observed_mean(_point_error(forecast, target, levels).square(), target)


def mae(forecast: Tensor, target: Target, levels: Sequence[float]) -> Tensor:
    """Mean absolute error of the point forecast (the median, where there are levels)."""
    return _observed_mean(_point_error(forecast, target, levels).abs(), target)


def huber(forecast: Tensor, target: Target, levels: Sequence[float]) -> Tensor:
    """Huber's loss of the point forecast (Annals of Mathematical Statistics 35, 1964).

    e^2 / 2 for errors up to `HUBER_DELTA`, linear beyond.
    """
    error = _point_error(forecast, target, levels)
    pointwise = huber_loss(error, torch.zeros_like(error), reduction="none", delta=HUBER_DELTA)
    return _observed_mean(pointwise, target)


def pinball(forecast: Tensor, target: Target, levels: Sequence[float]) -> Tensor:
    """Quantile loss: q max(y - f, 0) + (1 - q) max(f - y, 0), Koenker & Bassett 1978.

    TFT (arXiv 1912.09363, equation 24) sums over levels; here their mean is taken, so that a
    learning rate and a gradient clip mean the same for any number of levels.
    """
    if not levels:
        raise ConfigError(
            "The pinball loss needs quantile levels, the model emits a point forecast. "
            "Give the window levels, or train with mse, mae or huber."
        )
    level = forecast.new_tensor(levels)
    gap = _seen(target).unsqueeze(-1) - forecast  # [batch, horizon, variate, level]
    return _observed_mean(torch.maximum(level * gap, (level - 1) * gap).mean(-1), target)


LOSSES: dict[str, Loss] = {"mse": mse, "mae": mae, "huber": huber, "pinball": pinball}


def _point_error(forecast: Tensor, target: Target, levels: Sequence[float]) -> Tensor:
    point = list(levels).index(0.5) if levels else 0
    return forecast[..., point] - _seen(target)  # [batch, horizon, variate]


def _seen(target: Target) -> Tensor:
    """The target with 0 where it was not observed: a NaN there must not reach a gradient."""
    return seen(target.values, target.observed)


def _observed_mean(pointwise: Tensor, target: Target) -> Tensor:
    if all_observed(target.observed):
        return pointwise.mean()
    kept = torch.where(target.observed, pointwise, 0)
    return kept.sum() / target.observed.sum().clamp(min=1)
