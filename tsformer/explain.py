"""What forecasts were read from, as values: variables, attention over time and variates, lags.

A model explains itself where it has a part that can be read: `Selects` (the temporal fusion
transformer), `AttendsToVariates` (iTransformer, SAMformer), `WeighsLags` (ridge and the linear
family); EXPLAINED_BY lists who does. The numbers are those that the forecast is made with, and
nothing is kept on the model. Call `eval()` first.

None of them says what a forecast depends on. Weights are shares of what is mixed, and what is
mixed may be ignored afterwards; `tsformer.faithfulness` hides what is called important, forecasts
again and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, IncompatibleError
from tsformer.model import Model
from tsformer.models import tft
from tsformer.models.tft import Explanation, Selected
from tsformer.scale import Scaled, scaling, through_center

LEVELS = (0.1, 0.5, 0.9)
"""The percentiles of an importance over samples (arXiv 1912.09363, section 7.1)."""

REGIME = 0.3
"""The distance beyond which attention is called another regime (the same, section 7.3)."""

ROLES = ("static", "encoder", "decoder")
"""What variables are: attributes of the series, inputs of the context, inputs of the horizon."""

EXPLAINED_BY: Mapping[str, tuple[str, ...]] = {
    "selection": ("tft",),
    "variates": ("itransformer", "samformer"),
    "lags": ("ridge", "linear", "nlinear", "dlinear", "rlinear"),
}
"""Each explanation, and the kinds of model that have it."""


@runtime_checkable
class Selects(Protocol):
    """A model that weighs variables and attends to steps."""

    def read(self, batch: Batch, /) -> tuple[Tensor, Explanation]: ...


@runtime_checkable
class AttendsToVariates(Protocol):
    """A model whose tokens are variates, and columns after them."""

    @property
    def covariate_tokens(self) -> tuple[str, ...]:
        """The column behind each token after the variates, by role and number ("past 0")."""
        ...

    def variate_scores(self, batch: Batch, /) -> Tensor:
        """Scores before the softmax, `[layer, batch, head, variate, token]`."""
        ...


@runtime_checkable
class WeighsLags(Protocol):
    """A model that is a linear map of its context, and of lagged values if it reads any."""

    def lag_weights(self) -> Tensor:
        """What each input adds to the point forecast of each step, `[horizon, time + lag]`."""
        ...


PARTS: Mapping[str, type] = {
    "selection": Selects,
    "variates": AttendsToVariates,
    "lags": WeighsLags,
}


def explanations(model: Model) -> tuple[str, ...]:
    """Which of EXPLAINED_BY `model` has; empty where it has none."""
    inner = _inner(model)
    return tuple(name for name, part in PARTS.items() if isinstance(inner, part))


@dataclass(frozen=True, slots=True)
class Importance:
    """How much each of `names` counted.

    - `names`: variables, or lags in steps.
    - `mean` `[name]`: not negative, 1 together.
    - `quantiles` `[level, name]`: over samples, at LEVELS; these do not add up.
    """

    names: tuple[str, ...] | tuple[int, ...]
    mean: Tensor
    quantiles: Tensor


# --- variables and steps ------------------------------------------------------------------------


def selection(model: Model, batch: Batch) -> Explanation:
    """What a temporal fusion transformer reads from `batch`, before any averaging."""
    _part(model, "selection")
    return tft.explain(model, batch)


def by_role(explanation: Explanation) -> dict[str, Selected]:
    """The variables of each of ROLES; a role without any is left out."""
    parts = (explanation.static, explanation.past, explanation.known)
    return {role: part for role, part in zip(ROLES, parts, strict=True) if part.variables}


def variables(selected: Selected) -> Importance:
    """The weights of `selected` over samples, steps and variates (section 7.1)."""
    return _over_samples(selected.variables, selected.weights.flatten(0, -2))


def pattern(attention: Tensor, *, step: int) -> Importance:
    """How much `step` of the horizon, counted from 1, attended to what lies how far before it.

    `attention` is that of an `Explanation`. Lags count back from the step itself, which has 0;
    percentiles are over windows and variates (section 7.2).
    """
    horizon = attention.shape[-2]
    if not 1 <= step <= horizon:
        raise ConfigError(f"step must be between 1 and the horizon ({horizon}), got {step}.")
    seen = attention.shape[-1] - horizon + step  # what lies after the step has no weight
    lags = tuple(range(seen - 1, -1, -1))
    return _over_samples(lags, attention[..., step - 1, :seen].flatten(0, -2))


def kappa(left: Tensor, right: Tensor) -> Tensor:
    """The distance of distributions on the last axis, 0 to 1: sqrt(1 - sum sqrt(p q))."""
    return (1 - (left * right).sqrt().sum(-1)).clamp(min=0).sqrt()


def regimes(attention: Tensor) -> Tensor:
    """How far each window's attention is from that of all, `[batch, variate]` (section 7.3).

    `attention` `[batch, variate, horizon, position]`; the mean of all windows is taken for each
    variate, that of distances over the horizon. Beyond REGIME a window is out of the ordinary.
    """
    return kappa(attention, attention.mean(0, keepdim=True)).mean(-1)


def _over_samples(names: tuple[str, ...] | tuple[int, ...], weights: Tensor) -> Importance:
    """The importance of `weights` `[sample, name]`."""
    quantiles = np.quantile(weights.double().cpu().numpy(), LEVELS, axis=0)
    return Importance(names, weights.double().mean(0).cpu(), torch.from_numpy(quantiles))


# --- variates -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VariateAttention:
    """How much each variate took from each other, averaged over heads.

    - `weights` `[batch, layer, from, to]`: `from` is the variate that is forecast, `to` the one
      it takes from, or after those one of `columns`. Rows sum to 1, and what was never observed
      has 0.
    - `scores` `[batch, layer, variate, variate]`: the same among variates before the softmax.
    """

    weights: Tensor
    scores: Tensor
    columns: tuple[str, ...]


@torch.no_grad()
def variate_attention(model: Model, batch: Batch) -> VariateAttention:
    """What the variates of each window of `batch` took from each other."""
    part = _part(model, "variates")
    assert isinstance(part, AttendsToVariates)
    scores = part.variate_scores(_normalised(model, batch))
    variates = scores.shape[-2]
    shares = scores.softmax(-1).mean(2).transpose(0, 1)  # [batch, layer, from, token]
    columns = tuple(dict.fromkeys(part.covariate_tokens))
    place = {column: variates + number for number, column in enumerate(columns)}
    owners = [*range(variates), *(place[token] for token in part.covariate_tokens)]
    weights = shares.new_zeros((*shares.shape[:-1], variates + len(columns)))
    weights.index_add_(-1, torch.tensor(owners, device=shares.device), shares)
    return VariateAttention(weights, scores[..., :variates].mean(2).transpose(0, 1), columns)


def correlations(values: Tensor, observed: Tensor) -> Tensor:
    """Pearson's correlations among variates over time, `[batch, variate, variate]`.

    `values` and `observed` are `[batch, time, variate]`. A missing step counts as the mean of its
    variate; a variate that does not vary has 0 throughout.
    """
    normal = scaling(values, observed, center="mean", scale="std").apply(values, observed)
    size = normal.norm(dim=1, keepdim=True)  # [batch, 1, variate]
    unit = normal / torch.where(size > 0, size, 1)
    return unit.mT @ unit


def resemblance(scores: Tensor, correlation: Tensor) -> Tensor:
    """Pearson's correlation between score maps and correlations of data, `[batch, layer]`.

    `scores` `[batch, layer, variate, variate]`, `correlation` `[batch, variate, variate]`. Section
    4.3 of arXiv 2310.06625 finds by eye that the first layer resembles the correlations of the
    context and the last those of the future. The diagonal is left out: that of the data is 1
    whatever the data. NaN below three variates, or where one was never observed.
    """
    apart = ~torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    found = _standardised(scores[..., apart].double())
    wanted = _standardised(correlation[:, apart].double()).unsqueeze(1)
    return (found * wanted).mean(-1)


def _standardised(values: Tensor) -> Tensor:
    """Over the last axis; NaN where nothing varies."""
    centred = values - values.mean(-1, keepdim=True)
    deviation = centred.square().mean(-1, keepdim=True).sqrt()
    rounding = 1e-12 * values.abs().amax(-1, keepdim=True) if values.shape[-1] else deviation
    return centred / torch.where(deviation > rounding, deviation, torch.nan)


# --- lags ---------------------------------------------------------------------------------------


def lag_weights(model: Model) -> Tensor:
    """The linear map that `model` is: `[horizon, time + lag]`, one row for each step.

    First the steps of the context in their order, then the lagged values that the model reads.
    The map is of values as they are: what normalisation takes out and puts back is in it
    (`tsformer.scale.through_center`), and for DLinear the moving average. Left out are biases;
    under instance scaling one grows with the deviation of the window.
    """
    part = _part(model, "lags")
    assert isinstance(part, WeighsLags)
    weights = part.lag_weights()
    if isinstance(model, Scaled):
        weights = through_center(weights, context=model.shape.context, center=model.center)
    return weights.double().cpu()


def lags_of(shape: Shape) -> Tensor:
    """How many steps before the step it serves each input of `lag_weights` lies: of its shape."""
    steps = torch.arange(shape.horizon)[:, None]
    context = steps + torch.arange(shape.context, 0, -1)
    lagged = torch.tensor(shape.lags, dtype=torch.long).expand(shape.horizon, -1)
    return torch.cat((context, lagged), 1)


def lag_importance(weights: Tensor) -> Tensor:
    """`|w|` as a share of its step: `[horizon, time + lag]`, every row 1 together.

    Plain weights, not weights times deviations: all inputs are one series, so their deviation is
    about the same and cancels in a share. Neighbouring lags carry the same news, and least squares
    may divide a weight among them, or give them large ones of opposite sign. A step on which
    nothing weighs is shared evenly.
    """
    size = weights.abs()
    total = size.sum(-1, keepdim=True)
    return torch.where(total > 0, size / torch.where(total > 0, total, 1), 1 / size.shape[-1])


# --- who can ------------------------------------------------------------------------------------


def _part(model: Model, name: str) -> Model:
    """The network of `model` that has the part `name`; IncompatibleError with those that do."""
    if model.training:
        raise ConfigError("The model is in training mode: dropout would be explained. Call eval().")
    if name not in explanations(model):
        raise IncompatibleError(
            f"This model has no explanation by {name}. Kinds that have: "
            f"{', '.join(EXPLAINED_BY[name])}."
        )
    return _inner(model)


def _inner(model: Model) -> Model:
    return model.inner if isinstance(model, Scaled) else model


def _normalised(model: Model, batch: Batch) -> Batch:
    return model.normalised(batch)[0] if isinstance(model, Scaled) else batch
